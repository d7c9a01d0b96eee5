/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A value of the tool's own for each task. */
#ifndef KSCOPE_TASK_BPF_H
#define KSCOPE_TASK_BPF_H

#include "counters.bpf.h"
#include "kscope.bpf.h"

/*
 * Set by kscope::tasks::choose(). Task storage goes with its task, never fills up, and costs a
 * tenth of what a hash costs. The hash is for kernels that do not let tracing programs use task
 * storage (before 5.13), and for programs to which the verifier gives no typed pointer.
 */
const volatile bool task_storage;

/*
 * TASK_VALUES(starts, struct tool_start) makes two maps, of which user space loads one, and
 *
 *   starts_find(btf, task)  the task's value, or NULL
 *   starts_make(btf, task)  the same, all zero if it is new; NULL, and counted, if there is no room
 *   starts_drop(btf, task)  take it away
 *
 * and starts_find_current() and so on for the running task, which are cheap in programs of every
 * kind. btf, a compile-time constant, is that of FIELD().
 *
 * The key of the hash is the task's address: it stays the same when a thread takes its leader's
 * number over in execve(). Others may have the address once the task is gone, so without
 * task_storage drop the value at its end: TASK_VALUES_EXIT() does that where the task makes no
 * value after sched_process_exit, and a program on sched_switch does it as the task is switched
 * out for the last time.
 */
#define TASK_VALUES(values, what)                                                                  \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_TASK_STORAGE);                                           \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                              \
		__type(key, int);                                                                  \
		__type(value, what);                                                               \
	} values##_storage SEC(".maps");                                                           \
                                                                                                   \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_HASH);                                                   \
		__uint(max_entries, 4096);                                                         \
		__type(key, __u64);                                                                \
		__type(value, what);                                                               \
	} values##_hash SEC(".maps");                                                              \
                                                                                                   \
	static const what values##_zero;                                                           \
                                                                                                   \
	static __always_inline __attribute__((unused))                                             \
	what *values##_find(bool btf, struct task_struct *task)                                    \
	{                                                                                          \
		__u64 key = (__u64)task;                                                           \
                                                                                                   \
		if (btf && task_storage)                                                           \
			return bpf_task_storage_get(&values##_storage, task, NULL, 0);             \
		return bpf_map_lookup_elem(&values##_hash, &key);                                  \
	}                                                                                          \
                                                                                                   \
	static __always_inline __attribute__((unused))                                             \
	what *values##_make(bool btf, struct task_struct *task)                                    \
	{                                                                                          \
		__u64 key = (__u64)task;                                                           \
		what *value;                                                                       \
                                                                                                   \
		if (btf && task_storage) {                                                         \
			value = bpf_task_storage_get(&values##_storage, task, NULL,                \
						     BPF_LOCAL_STORAGE_GET_F_CREATE);              \
			if (!value)                                                                \
				count(LOST_TASK_STORAGE);                                          \
			return value;                                                              \
		}                                                                                  \
		value = bpf_map_lookup_elem(&values##_hash, &key);                                 \
		if (value)                                                                         \
			return value;                                                              \
		bpf_map_update_elem(&values##_hash, &key, &values##_zero, BPF_NOEXIST);            \
		value = bpf_map_lookup_elem(&values##_hash, &key);                                 \
		if (!value)                                                                        \
			count(LOST_MAP_FULL);                                                      \
		return value;                                                                      \
	}                                                                                          \
                                                                                                   \
	static __always_inline                                                                     \
		__attribute__((unused)) void values##_drop(bool btf, struct task_struct *task)     \
	{                                                                                          \
		__u64 key = (__u64)task;                                                           \
                                                                                                   \
		if (btf && task_storage)                                                           \
			bpf_task_storage_delete(&values##_storage, task);                          \
		else                                                                               \
			bpf_map_delete_elem(&values##_hash, &key);                                 \
	}                                                                                          \
                                                                                                   \
	static __always_inline __attribute__((unused)) what *values##_find_current(void)           \
	{                                                                                          \
		if (task_storage)                                                                  \
			return values##_find(true, bpf_get_current_task_btf());                    \
		return values##_find(false, (struct task_struct *)bpf_get_current_task());         \
	}                                                                                          \
                                                                                                   \
	static __always_inline __attribute__((unused)) what *values##_make_current(void)           \
	{                                                                                          \
		if (task_storage)                                                                  \
			return values##_make(true, bpf_get_current_task_btf());                    \
		return values##_make(false, (struct task_struct *)bpf_get_current_task());         \
	}                                                                                          \
                                                                                                   \
	static __always_inline __attribute__((unused)) void values##_drop_current(void)            \
	{                                                                                          \
		if (task_storage)                                                                  \
			values##_drop(true, bpf_get_current_task_btf());                           \
		else                                                                               \
			values##_drop(false, (struct task_struct *)bpf_get_current_task());        \
	}

/* The hook task_exit, which is of use with the hash alone: see kscope::tasks::choose(). */
#define TASK_VALUES_EXIT(values)                                                                   \
	TRACEPOINT_HOOK(task_exit, "sched_process_exit", (values##_drop_current(), 0))

#endif
