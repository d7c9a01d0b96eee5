/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What every event begins with: whose it is, and when it was. */
#ifndef KSCOPE_RECORD_BPF_H
#define KSCOPE_RECORD_BPF_H

#include "pids.bpf.h"

/* User space makes a part of a row of it: `Out::task()`. */
struct kscope_task {
	__u64 time_ns; /* CLOCK_BOOTTIME; not 0, which tells it from a stack's record */
	__u64 cgroup;
	__u32 tgid; /* as the user numbers it; 0: not known */
	__u32 tid;
	__u32 uid;
	__u32 pad;
	__u8 comm[KSCOPE_COMM_LEN];
};

_Static_assert(sizeof(struct kscope_task) == 48, "size of kscope_task");

/* Set by the library: whether anybody will see them. */
const volatile bool want_uid;
const volatile bool want_cgroup;

/* Let the object's types have an event's, which no map holds. */
#define EVENT(type) struct type *type##_type __attribute__((unused))

/* The running task, which current_task() gave. */
static __always_inline void record_current(struct kscope_task *to, struct task_struct *task)
{
	__u64 pids = current_pids_of(task);

	to->tgid = pids >> 32;
	to->tid = pids;
	if (want_uid)
		to->uid = CURRENT_IS_TYPED() ? task->cred->uid.val : bpf_get_current_uid_gid();
	if (want_cgroup)
		to->cgroup = bpf_get_current_cgroup_id();
	bpf_get_current_comm(to->comm, sizeof(to->comm));
}

/* A task that need not be the running one. btf is that of FIELD(). */
static __always_inline void record_task(struct kscope_task *to, bool btf, struct task_struct *task)
{
	__u64 pids = task_pids(btf, task);

	to->tgid = pids >> 32;
	to->tid = pids;
	if (want_uid)
		to->uid = btf ? task->cred->uid.val : BPF_CORE_READ(task, cred, uid.val);
	if (want_cgroup)
		to->cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	bpf_core_read_str(to->comm, sizeof(to->comm), &task->comm);
}

#endif
