/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The filters that every tool has: --pid, --tid, --uid, --comm, --cgroup, and a command. */
#ifndef KSCOPE_FILTER_BPF_H
#define KSCOPE_FILTER_BPF_H

#include "cgroup.bpf.h"
#include "follow.bpf.h"
#include "pids.bpf.h"

static __always_inline bool filter_list(const volatile __u32 *list, __u32 len, __u32 value)
{
	for (__u32 i = 0; i < KSCOPE_FILTER_MAX && i < len; i++)
		if (list[i] == value)
			return true;
	return !len;
}

static __always_inline bool filter_targets(const __u64 *list, __u32 len, __u32 value)
{
	for (__u32 i = 0; i < KSCOPE_FILTER_MAX && i < len; i++)
		if (list[i] == value)
			return true;
	return !len;
}

static __always_inline bool filter_current_cgroup(void)
{
	for (__u32 i = 0; i < KSCOPE_FILTER_MAX && i < filter.cgroups; i++)
		if (current_in_cgroup(targets.cgroup[i], filter.cgroup_level[i],
				      filter.cgroup_controller[i]))
			return true;
	return !filter.cgroups;
}

/* The name contains one of --comm, as in bcc. What is behind its end is zero. */
static __always_inline bool filter_comm(const __u64 *comm)
{
	__u64 low = comm[0], high = comm[1];

	for (__u32 start = 0; start < KSCOPE_COMM_LEN; start++) {
		for (__u32 i = 0; i < KSCOPE_FILTER_MAX && i < filter.comms; i++)
			if ((low & filter.comm[i].low_mask) == filter.comm[i].low &&
			    (high & filter.comm[i].high_mask) == filter.comm[i].high)
				return true;
		low = low >> 8 | high << 56;
		high >>= 8;
	}
	return false;
}

/* Not the tool itself, by numbers that current_pids() or task_pids() gave. */
static __always_inline bool filter_not_own(__u64 pids)
{
	return pids >> 32 != filter.own_tgid;
}

/* By the same numbers. */
static __always_inline bool filter_pids(__u64 pids)
{
	return filter_not_own(pids) && filter_targets(targets.tgid, filter.tgids, pids >> 32) &&
	       filter_targets(targets.tid, filter.tids, pids);
}

/* By the command that the process belongs to, which the kernel's own number tells. */
static __always_inline bool filter_command(__u32 kernel_tgid)
{
	return !filter.follow || is_followed(kernel_tgid);
}

/* Whether every task passes, but the tool's own. */
static __always_inline bool filter_is_empty(void)
{
	return !filter.any;
}

/* filter_current(), with what current_task() gave. */
static __always_inline bool filter_current_task(struct task_struct *task)
{
	__u64 pids = current_pids_of(task);

	if (filter_is_empty())
		return filter_not_own(pids);
	if (!filter_pids(pids))
		return false;
	if (filter.follow && !filter_command(bpf_get_current_pid_tgid() >> 32))
		return false;
	if (filter.uids && !filter_list(filter.uid, filter.uids, bpf_get_current_uid_gid()))
		return false;
	if (filter.comms) {
		__u64 comm[2] = {};

		bpf_get_current_comm(comm, sizeof(comm));
		if (!filter_comm(comm))
			return false;
	}
	return filter_current_cgroup();
}

/* For hooks that run in the task that their event is about, and for no other. */
static __always_inline bool filter_current(void)
{
	return filter_current_task(current_task());
}

static __always_inline bool filter_task_cgroup(struct task_struct *task)
{
	for (__u32 i = 0; i < KSCOPE_FILTER_MAX && i < filter.cgroups; i++)
		if (task_in_cgroup(task, targets.cgroup[i], filter.cgroup_controller[i]))
			return true;
	return !filter.cgroups;
}

/* For a task that need not be the running one. */
static __always_inline bool filter_task(bool btf, struct task_struct *task)
{
	__u64 pids = task_pids(btf, task);

	if (filter_is_empty())
		return filter_not_own(pids);
	if (!filter_pids(pids) || !filter_command(FIELD(btf, task, tgid)))
		return false;
	if (filter.uids &&
	    !filter_list(filter.uid, filter.uids,
			 btf ? task->cred->uid.val : BPF_CORE_READ(task, cred, uid.val)))
		return false;
	if (filter.comms) {
		__u64 comm[2] = {};

		bpf_core_read_str(comm, sizeof(comm), &task->comm);
		if (!filter_comm(comm))
			return false;
	}
	return filter_task_cgroup(task);
}

#endif
