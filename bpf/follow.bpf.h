/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a command that the tool has started has started itself, and so on: `tool -- command`. The
 * programs are loaded only then.
 */
#ifndef KSCOPE_FOLLOW_BPF_H
#define KSCOPE_FOLLOW_BPF_H

#include "counters.bpf.h"
#include "pids.bpf.h"

/* Processes by the kernel's number, with their time of birth. User space sets the size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} followed SEC(".maps");

static __always_inline bool is_followed(__u32 tgid)
{
	return bpf_map_lookup_elem(&followed, &tgid);
}

/* The child does not run yet. */
static __always_inline int on_follow_fork(bool btf, struct task_struct *parent,
					  struct task_struct *child)
{
	__u32 from = FIELD(btf, parent, tgid), to = FIELD(btf, child, tgid);
	__u64 born = FIELD(btf, child, start_time);

	if (from == to)
		return 0;
	if (!is_followed(from) && task_pids(btf, parent) >> 32 != filter.follow)
		/* A number that is given again. */
		bpf_map_delete_elem(&followed, &to);
	else if (bpf_map_update_elem(&followed, &to, &born, BPF_ANY))
		count(DROPPED_NOT_FOLLOWED);
	return 0;
}

TRACEPOINT_HOOK(follow_fork, "sched_process_fork",
		on_follow_fork(btf, (struct task_struct *)ctx[0], (struct task_struct *)ctx[1]))

/*
 * After its exit a process still closes its files and is switched away from: it is forgotten when
 * it is freed. By then its number may be another's, who was born later; exec in a thread keeps the
 * birth.
 */
static __always_inline int on_follow_free(bool btf, struct task_struct *task)
{
	__u32 tgid = FIELD(btf, task, tgid);
	__u64 *born;

	if (FIELD(btf, task, pid) != tgid)
		return 0;
	born = bpf_map_lookup_elem(&followed, &tgid);
	if (born && *born == FIELD(btf, task, start_time))
		bpf_map_delete_elem(&followed, &tgid);
	return 0;
}

TRACEPOINT_HOOK(follow_free, "sched_process_free",
		on_follow_free(btf, (struct task_struct *)ctx[0]))

#endif
