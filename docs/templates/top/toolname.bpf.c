// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "counters.bpf.h"
#include "filter.bpf.h"
#include "turns.bpf.h"
#include "toolname.h"

#define ROWS_MAX 4096

TURNS(struct toolname_key, struct toolname_value, ROWS_MAX)

static __always_inline int on_exit(bool btf, struct task_struct *task)
{
	struct toolname_value first = {}, *value;
	struct toolname_key key = {};

	if (!filter_task(btf, task))
		return 0;
	count(GENERATED);
	key.tgid = task_pids(btf, task) >> 32;
	bpf_core_read_str(first.comm, sizeof(first.comm), &task->comm);
	value = turns_value(&key, &first);
	if (value)
		__sync_fetch_and_add(&value->ends, 1);
	return 0;
}

TRACEPOINT_HOOK(exit, "sched_process_exit", on_exit(btf, (struct task_struct *)ctx[0]))
