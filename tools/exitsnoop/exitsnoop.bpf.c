// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "cgroup_names.bpf.h"
#include "events.bpf.h"
#include "filter.bpf.h"
#include "exitsnoop.h"

#define PF_KTHREAD 0x00200000
#define SIGNAL_GROUP_EXIT 4
#define CORE_DUMPED 0x80
#define EEXIST 17
#define ENDED_MAX 1024

const volatile bool threads;
const volatile bool failed_only;
/* 6.15 passes whether the task is its process's last; before, two that end at once may both seem
 * so. */
const volatile bool passes_group_dead;

struct process {
	__u64 start_ns;
	__u64 tgid;
};

/* Processes whose end was reported, where two threads may both look like the last. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, ENDED_MAX);
	__type(key, struct process);
	__type(value, __u8);
} ended SEC(".maps");

EVENT(exitsnoop_event);

static __always_inline bool group_exits(bool btf, struct task_struct *task)
{
	return (btf ? task->signal->flags : BPF_CORE_READ(task, signal, flags)) & SIGNAL_GROUP_EXIT;
}

/* Whether the process ends with this thread, or has with another one that is on its way out. */
static __always_inline bool is_last(bool btf, struct task_struct *task, struct task_struct *leader)
{
	if (btf ? task->signal->live.counter : BPF_CORE_READ(task, signal, live.counter))
		return false;
	/* The status is the leader's, which it has before it gives up its memory; it comes here
	 * then. */
	return task == leader || group_exits(btf, task) || !FIELD(btf, leader, mm);
}

/* The status that the parent learns: of exit_group() or a fatal signal, else of the first thread.
 */
static __always_inline __u32 process_status(bool btf, struct task_struct *leader)
{
	if (group_exits(btf, leader))
		return btf ? leader->signal->group_exit_code
			   : BPF_CORE_READ(leader, signal, group_exit_code);
	return FIELD(btf, leader, exit_code);
}

static __always_inline int on_exit(bool btf, struct task_struct *task, bool group_dead)
{
	struct exitsnoop_event event = {};
	struct task_struct *who = task;

	if (!threads) {
		who = FIELD(btf, task, group_leader);
		if (passes_group_dead ? !group_dead : !is_last(btf, task, who))
			return 0;
	}
	if (!filter_task(btf, who))
		return 0;
	event.kernel = !!(FIELD(btf, who, flags) & PF_KTHREAD);
	/* A kernel thread may leave anything there. */
	if (!event.kernel)
		event.exit_code = threads ? FIELD(btf, who, exit_code) : process_status(btf, who);
	if (failed_only && !(event.exit_code & ~CORE_DUMPED))
		return 0;
	event.start_ns = FIELD(btf, who, start_boottime);
	if (!threads && !passes_group_dead) {
		struct process process = {.start_ns = event.start_ns,
					  .tgid = FIELD(btf, who, tgid)};
		__u8 one = 1;

		/* Before 6.4, the upper half of what an update returns may be anything. */
		if ((int)bpf_map_update_elem(&ended, &process, &one, BPF_NOEXIST) == -EEXIST)
			return 0;
	}
	event.task.time_ns = bpf_ktime_get_boot_ns();
	record_task(&event.task, btf, who);
	event.ppid = task_pids(btf, FIELD(btf, who, real_parent)) >> 32;
	event.euid = btf ? who->cred->euid.val : BPF_CORE_READ(who, cred, euid.val);
	events_output(&event, sizeof(event), event.task.time_ns);
	return 0;
}

TRACEPOINT_HOOK(exit, "sched_process_exit",
		on_exit(btf, (struct task_struct *)ctx[0], passes_group_dead &&RAW_ARG(ctx, 1)))

/* 6.15 gave the record this. */
struct trace_event_raw_sched_process_exit___6_15 {
	bool group_dead;
} __attribute__((preserve_access_index));

SEC("tp/sched/sched_process_exit")
int exit__tp(struct trace_event_raw_sched_process_exit___6_15 *ctx)
{
	bool group_dead = false;

	if (bpf_core_field_exists(ctx->group_dead))
		group_dead = ctx->group_dead;
	return on_exit(false, (struct task_struct *)bpf_get_current_task(),
		       passes_group_dead && group_dead);
}
