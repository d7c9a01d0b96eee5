// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "filter.bpf.h"
#include "sched.bpf.h"
#include "stack.bpf.h"
#include "task.bpf.h"
#include "offcputime.h"

const volatile __u64 min_ns;
const volatile __u64 max_ns = ~0ULL;
/* Bits of the task's state, one of which is to be set; 0: it could run on; -1: any. */
const volatile __s64 wanted_state = -1;
const volatile bool user_threads_only;
const volatile bool kernel_threads_only;

/*
 * When user space stopped tracing, shortly before the programs are detached: what is then off the
 * CPU is so until this time, whether a program still sees its end or not.
 */
__u64 ended_ns;

TASK_VALUES(starts, struct offcputime_start)

static __always_inline bool passes(bool btf, bool preempt, struct task_struct *prev)
{
	bool kernel_thread = FIELD(btf, prev, flags) & PF_KTHREAD;

	if (kernel_thread ? user_threads_only : kernel_threads_only)
		return false;
	if (wanted_state >= 0) {
		bool runnable = switch_is_runnable(btf, preempt, prev);

		if (wanted_state ? runnable || !(task_state(btf, prev) & wanted_state) : !runnable)
			return false;
	}
	/* prev is the running task until the switch itself. */
	return filter_current();
}

static __always_inline void leave(bool btf, __u64 *ctx, struct task_struct *prev, __u64 now)
{
	struct offcputime_start *start;
	__u64 pids;

	if (ended_ns)
		return;
	start = starts_make(btf, prev);
	if (!start)
		return;
	/* Its return was not seen. */
	if (start->ns)
		count(DROPPED_UNKNOWN_END);
	pids = task_pids(btf, prev);
	start->tgid = pids >> 32;
	start->tid = pids;
	bpf_core_read(start->comm, sizeof(start->comm), &prev->comm);
	start->kernel = stack_kernel(ctx, now);
	start->user = stack_user(ctx, start->tgid, now);
	start->ns = now;
}

static __always_inline void add(struct offcputime_start *start, __u64 now)
{
	struct kscope_stack_key key = {};
	__u64 since = start->ns;

	start->ns = 0;
	if (ended_ns && now > ended_ns)
		now = ended_ns;
	if (now < since) {
		count(DROPPED_NEGATIVE_TIME);
		return;
	}
	if (now - since < min_ns || now - since > max_ns)
		return;
	key.kernel = start->kernel;
	key.user = start->user;
	key.tgid = start->tgid;
	key.tid = start->tid;
	__builtin_memcpy(key.comm, start->comm, sizeof(key.comm));
	stack_add(&key, now - since);
}

static __always_inline void come_back(bool btf, struct task_struct *next, __u64 now)
{
	struct offcputime_start *start = starts_find(btf, next);

	if (start && start->ns) {
		add(start, now);
		return;
	}
	/* It was off the CPU when tracing began, or its leave was not seen; unless it is new. */
	if (wanted_state < 0 && !ended_ns &&
	    (FIELD(btf, next, nvcsw) || FIELD(btf, next, nivcsw))) {
		bool kernel_thread = FIELD(btf, next, flags) & PF_KTHREAD;

		if (!(kernel_thread ? user_threads_only : kernel_threads_only) &&
		    filter_task(btf, next))
			count(DROPPED_UNKNOWN_START);
	}
}

static __always_inline int on_switch(bool btf, __u64 *ctx)
{
	struct task_struct *prev = SWITCH_PREV(ctx);
	struct task_struct *next = SWITCH_NEXT(ctx);
	bool preempt = SWITCH_PREEMPT(ctx);
	/* One time for both: what is done here for the one is no time of the other. */
	__u64 now = bpf_ktime_get_ns();

	/* The idle tasks have the number 0 each, and no time off the CPU that means anything. */
	if (!task_is_idle(btf, prev)) {
		if (switch_is_last(btf, preempt, prev))
			starts_drop(btf, prev);
		else if (passes(btf, preempt, prev))
			leave(btf, ctx, prev, now);
	}
	if (!task_is_idle(btf, next))
		come_back(btf, next, now);
	return 0;
}

TRACEPOINT_HOOK(sched_switch, "sched_switch", on_switch(btf, ctx))

/* At the end, for the tasks that are still off the CPU. */
SEC("iter/task")
int flush(struct bpf_iter__task *ctx)
{
	struct offcputime_start *start;
	struct task_struct *task = ctx->task;

	if (!task)
		return 0;
	start = starts_find(true, task);
	if (start && start->ns)
		add(start, ended_ns);
	return 0;
}
