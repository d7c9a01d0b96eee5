/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Numbers of processes and threads as the user knows them: those of the pid namespace that the tool
 * runs in. As the kernel has it, who is not in it or below has the number 0 there.
 */
#ifndef KSCOPE_PIDS_BPF_H
#define KSCOPE_PIDS_BPF_H

#include "targets.bpf.h"

#define PIDNS_LEVELS 33 /* MAX_PID_NS_LEVEL, and the first one */

/* A name of a thread, as two words, and the bits of it that are to be compared. */
struct kscope_name {
	__u64 low, high;
	__u64 low_mask, high_mask;
};

/* Constant at load time: the verifier removes what is not asked for. An empty list passes all. */
struct kscope_filter {
	struct kscope_name comm[KSCOPE_FILTER_MAX];
	__u32 cgroup_level[KSCOPE_FILTER_MAX];
	__u32 cgroup_controller[KSCOPE_FILTER_MAX]; /* enum kscope_controller */
	__u32 uid[KSCOPE_FILTER_MAX];
	__u32 cgroups;
	__u32 tgids;
	__u32 tids;
	__u32 uids;
	__u32 comms;
	__u32 own_tgid; /* the tool's own process, which is never traced */
	__u32 pidns;	/* the namespace of these numbers, by its inode; 0 is the first one */
	__u32 follow;	/* trace what this process starts only; 0: everything */
	__u32 any;	/* whether there is any of these: a glance for those that nobody filters */
};

const volatile struct kscope_filter filter;

static __always_inline __u32 pid_seen(struct pid *pid)
{
	struct upid *upid = __builtin_preserve_access_index(&pid->numbers[0]);
	__u32 level = BPF_CORE_READ(pid, level);

	for (__u32 i = 0; i < PIDNS_LEVELS && i <= level; i++) {
		if (BPF_CORE_READ(upid, ns, ns.inum) == filter.pidns)
			return BPF_CORE_READ(upid, nr);
		upid = (void *)upid + bpf_core_type_size(struct upid);
	}
	return 0;
}

/* Process and thread, as bpf_get_current_pid_tgid() has them. */
static __always_inline __u64 pids_seen(struct task_struct *task)
{
	__u64 tgid = pid_seen(BPF_CORE_READ(task, group_leader, thread_pid));

	return tgid << 32 | pid_seen(BPF_CORE_READ(task, thread_pid));
}

static __always_inline __u64 task_pids(bool btf, struct task_struct *task)
{
	if (filter.pidns)
		return pids_seen(task);
	return (__u64)FIELD(btf, task, tgid) << 32 | (__u32)FIELD(btf, task, pid);
}

/* Those of the running task, which is task, that current_task() gave. */
static __always_inline __u64 current_pids_of(struct task_struct *task)
{
	if (filter.pidns)
		return pids_seen(task);
	/* Without a call, where the JIT has none to get the task. */
	if (CURRENT_IS_TYPED())
		return (__u64)task->tgid << 32 | (__u32)task->pid;
	return bpf_get_current_pid_tgid();
}

static __always_inline __u64 current_pids(void)
{
	return current_pids_of(current_task());
}

#endif
