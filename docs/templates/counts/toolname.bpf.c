// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "counters.bpf.h"
#include "filter.bpf.h"
#include "turns.bpf.h"
#include "toolname.h"

#define NAMES_MAX 8192

TURNS(struct toolname_key, struct toolname_value, NAMES_MAX)

static __always_inline int on_exit(bool btf, struct task_struct *task)
{
	struct toolname_value zero = {}, *value;
	struct toolname_key key = {};

	if (FIELD(btf, task, pid) != FIELD(btf, task, tgid) || !filter_task(btf, task))
		return 0;
	count(GENERATED);
	bpf_core_read_str(key.comm, sizeof(key.comm), &task->comm);
	value = turns_value(&key, &zero);
	if (value)
		__sync_fetch_and_add(&value->ends, 1);
	return 0;
}

TRACEPOINT_HOOK(exit, "sched_process_exit", on_exit(btf, (struct task_struct *)ctx[0]))
