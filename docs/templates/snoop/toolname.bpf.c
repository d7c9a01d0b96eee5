// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "cgroup_names.bpf.h"
#include "events.bpf.h"
#include "filter.bpf.h"
#include "toolname.h"

EVENT(toolname_event);

static __always_inline int on_exit(bool btf, struct task_struct *task)
{
	struct toolname_event event = {};

	if (FIELD(btf, task, pid) != FIELD(btf, task, tgid) || !filter_task(btf, task))
		return 0;
	event.task.time_ns = bpf_ktime_get_boot_ns();
	record_task(&event.task, btf, task);
	event.exit_code = FIELD(btf, task, exit_code);
	events_output(&event, sizeof(event), event.task.time_ns);
	return 0;
}

TRACEPOINT_HOOK(exit, "sched_process_exit", on_exit(btf, (struct task_struct *)ctx[0]))
