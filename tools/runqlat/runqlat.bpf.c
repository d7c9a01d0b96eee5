// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "counters.bpf.h"
#include "filter.bpf.h"
#include "hist.bpf.h"
#include "sched.bpf.h"
#include "task.bpf.h"
#include "turns.bpf.h"
#include "runqlat.h"

const volatile __u64 unit_ns = 1000;
const volatile bool per_process;
const volatile bool per_thread;
const volatile bool per_pidns;

/* When a task began to wait for a CPU; 0: it does not wait, or it is filtered out. */
TASK_VALUES(waits, __u64)

/* Without -P, -L and --pidnss. */
struct kscope_hist total;

/* User space sets the size (--entries). */
TURNS(struct runqlat_key, struct runqlat_value, 1)

/* New histograms start from it: they are too big for the stack. */
static const struct runqlat_value zero;

static __always_inline void begin(bool btf, struct task_struct *task)
{
	__u64 *since;

	if (!filter_task(btf, task))
		return;
	since = waits_make(btf, task);
	/* One that is woken up while it waits, preempted on its way to sleep, waits already. */
	if (since && !*since)
		*since = bpf_ktime_get_ns();
}

/* The namespace that the task is in, by which it has a number there. */
static __always_inline __u32 task_pidns(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	__u32 level = BPF_CORE_READ(pid, level);
	struct upid upid = {};

	bpf_core_read(&upid, sizeof(upid), &pid->numbers[level]);
	return BPF_CORE_READ(upid.ns, ns.inum);
}

/* NULL is counted as a loss. */
static __always_inline struct kscope_hist *find_hist(bool btf, struct task_struct *task)
{
	struct task_struct *named = task;
	struct runqlat_key key = {};
	struct runqlat_value *value;

	if (!per_process && !per_thread && !per_pidns)
		return &total;
	if (per_process)
		key.tgid = task_pids(btf, task) >> 32;
	if (per_thread)
		key.tid = task_pids(btf, task);
	else
		named = FIELD(btf, task, group_leader);
	if (per_pidns)
		key.pidns = task_pidns(task);
	value = turns_value(&key, &zero);
	if (!value)
		return NULL;
	/* Each time: a name may change. */
	if (per_process || per_thread)
		bpf_core_read(value->comm, sizeof(value->comm), &named->comm);
	return &value->hist;
}

static __always_inline void end(bool btf, struct task_struct *task)
{
	__u64 now, start, *since = waits_find(btf, task);
	struct kscope_hist *hist;

	if (!since || !*since) {
		/* It waited already when the tool began. */
		if (filter_task(btf, task))
			count(DROPPED_UNKNOWN_START);
		return;
	}
	start = *since;
	*since = 0;
	now = bpf_ktime_get_ns();
	if (now < start) {
		count(DROPPED_NEGATIVE_TIME);
		return;
	}
	hist = find_hist(btf, task);
	if (hist)
		hist_add(hist, now - start, unit_ns);
}

static __always_inline int on_wakeup(bool btf, __u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];

	if (!wakeup_is_running(btf, task))
		begin(btf, task);
	return 0;
}

/* Who ran until now waits for nothing: a wait that still seems to go on had an end that was missed.
 */
static __always_inline void forget(bool btf, struct task_struct *task)
{
	__u64 *since = waits_find(btf, task);

	if (!since || !*since)
		return;
	*since = 0;
	count(DROPPED_UNKNOWN_END);
}

static __always_inline int on_switch(bool btf, __u64 *ctx)
{
	struct task_struct *prev = SWITCH_PREV(ctx);
	struct task_struct *next = SWITCH_NEXT(ctx);
	bool preempt = SWITCH_PREEMPT(ctx);

	if (!task_is_idle(btf, prev)) {
		forget(btf, prev);
		if (switch_is_runnable(btf, preempt, prev))
			begin(btf, prev);
		else if (!task_storage && switch_is_last(btf, preempt, prev))
			waits_drop(btf, prev);
	}
	if (!task_is_idle(btf, next))
		end(btf, next);
	return 0;
}

/* The ends are seen before the first beginning is. */
TRACEPOINT_HOOK(sched_switch, "sched_switch", on_switch(btf, ctx))
TRACEPOINT_HOOK(sched_wakeup, "sched_wakeup", on_wakeup(btf, ctx))
TRACEPOINT_HOOK(sched_wakeup_new, "sched_wakeup_new", on_wakeup(btf, ctx))
