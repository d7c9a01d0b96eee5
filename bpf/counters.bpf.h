/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs count about themselves, for the footer of every tool. */
#ifndef KSCOPE_COUNTERS_BPF_H
#define KSCOPE_COUNTERS_BPF_H

#include "kscope.bpf.h"

/*
 * The names are the keys that the user sees, in lower case. LOST_*: an event that happened and will
 * not be shown. DROPPED_*: a measurement that was not made because its number would be false.
 * STACK_*: an event that is shown, but with no stack or with a part of it.
 */
enum kscope_counter {
	GENERATED,
	LOST_RING_FULL,
	LOST_MAP_FULL,
	LOST_TASK_STORAGE, /* the kernel gave no room for a task's value */
	DROPPED_NEGATIVE_TIME,
	DROPPED_UNKNOWN_START,
	DROPPED_NOT_FOLLOWED,
	DROPPED_UNKNOWN_END,
	DROPPED_UNFINISHED,
	DROPPED_MAP_FULL,
	DROPPED_STILL_RUNNING,
	DROPPED_HELD_BACK,
	STACK_NO_ROOM,
	STACK_TRUNCATED,
	STACK_NO_KERNEL,
	STACK_NO_USER,
	KSCOPE_COUNTERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, KSCOPE_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* User space finds the names of the counters in the object's BTF. */
enum kscope_counter *kscope_counter_names __attribute__((unused));

static __always_inline void count(enum kscope_counter counter)
{
	__u32 key = counter;
	__u64 *value = bpf_map_lookup_elem(&counters, &key);

	/* Atomic: a program may be interrupted by another one of the same tool. */
	if (value)
		__sync_fetch_and_add(value, 1);
}

#endif
