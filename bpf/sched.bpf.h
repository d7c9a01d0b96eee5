/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the hooks of the scheduler say of a task. */
#ifndef KSCOPE_SCHED_BPF_H
#define KSCOPE_SCHED_BPF_H

#include "kscope.bpf.h"

/* Bits of a task's state, of include/linux/sched.h. */
#define TASK_RUNNING 0
#define TASK_DEAD 0x80

/*
 * The arguments of sched_switch: (preempt, prev, next), and prev_state behind them from 5.18 on.
 * While that was new it stood second; user space sets this where it does.
 */
const volatile bool sched_switch_state_second;

#define SWITCH_PREEMPT(ctx) ((bool)(ctx)[0])
#define SWITCH_PREV(ctx)                                                                           \
	((struct task_struct *)(sched_switch_state_second ? RAW_ARG(ctx, 2) : RAW_ARG(ctx, 1)))
#define SWITCH_NEXT(ctx)                                                                           \
	((struct task_struct *)(sched_switch_state_second ? RAW_ARG(ctx, 3) : RAW_ARG(ctx, 2)))

/* 5.14 renamed state. */
struct task_struct___state {
	long state;
} __attribute__((preserve_access_index));

static __always_inline long task_state(bool btf, struct task_struct *task)
{
	struct task_struct___state *old = (void *)task;

	if (bpf_core_field_exists(old->state))
		return FIELD(btf, old, state);
	return FIELD(btf, task, __state);
}

/* Each CPU has an idle task, and all of them number 0. */
static __always_inline bool task_is_idle(bool btf, struct task_struct *task)
{
	return !FIELD(btf, task, pid);
}

/*
 * Whether the task that is switched out can go on running: one that is preempted on its way to
 * sleep has the state of its sleep. prev_state is not looked at, as before 6.14 it is stale where a
 * signal kept the task from sleeping; nobody but the CPU itself can make the state be
 * TASK_RUNNING here.
 */
static __always_inline bool switch_is_runnable(bool btf, bool preempt, struct task_struct *prev)
{
	return preempt || task_state(btf, prev) == TASK_RUNNING;
}

/* Whether the task is switched out for the last time. */
static __always_inline bool switch_is_last(bool btf, bool preempt, struct task_struct *prev)
{
	return !preempt && (task_state(btf, prev) & TASK_DEAD);
}

/*
 * In sched_wakeup: whether the task has not even left its CPU, and so waits for none. Where it
 * has, the kernel waits until on_cpu is 0 before it wakes it up.
 */
static __always_inline bool wakeup_is_running(bool btf, struct task_struct *task)
{
	/* Kernels for one CPU have no such field before 6.17. */
	if (bpf_core_field_exists(task->on_cpu))
		/* 7.x made a byte of it. */
		return btf ? BPF_CORE_READ_BITFIELD(task, on_cpu)
			   : BPF_CORE_READ_BITFIELD_PROBED(task, on_cpu);
	return (__u64)task == bpf_get_current_task();
}

#endif
