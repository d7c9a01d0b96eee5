// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "counters.bpf.h"
#include "filter.bpf.h"
#include "hist.bpf.h"
#include "toolname.h"

const volatile __u64 unit_ns = 1000;

struct kscope_hist total;

static __always_inline int on_exit(bool btf, struct task_struct *task)
{
	if (FIELD(btf, task, pid) != FIELD(btf, task, tgid) || !filter_task(btf, task))
		return 0;
	hist_add(&total, bpf_ktime_get_boot_ns() - FIELD(btf, task, start_boottime), unit_ns);
	return 0;
}

TRACEPOINT_HOOK(exit, "sched_process_exit", on_exit(btf, (struct task_struct *)ctx[0]))
