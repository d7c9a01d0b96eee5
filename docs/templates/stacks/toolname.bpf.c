// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "filter.bpf.h"
#include "stack.bpf.h"
#include "toolname.h"

static __always_inline int on_exit(void *ctx)
{
	__u64 now = bpf_ktime_get_boot_ns();
	struct kscope_stack_key key = {};

	if (!filter_current())
		return 0;
	key.tgid = current_pids() >> 32;
	key.kernel = stack_kernel(ctx, now);
	key.user = stack_user(ctx, key.tgid, now);
	bpf_get_current_comm(key.comm, sizeof(key.comm));
	stack_add(&key, 0);
	return 0;
}

TRACEPOINT_HOOK(exit, "sched_process_exit", on_exit(ctx))
