// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "filter.bpf.h"
#include "stack.bpf.h"
#include "profile.h"

/* Whether to count the idle task too. */
const volatile bool include_idle;

struct profile_totals totals;

/* The upper half of the address space is the kernel's, on every architecture that we know. */
static __always_inline bool is_kernel(__u64 ip)
{
	return (__s64)ip < 0;
}

SEC("perf_event")
int sample(struct bpf_perf_event_data *ctx)
{
	bool kernel = is_kernel(PT_REGS_IP(&ctx->regs));
	__u64 now = bpf_ktime_get_boot_ns();
	struct kscope_stack_key key = {};

	if (!filter_current())
		return 0;
	/* Thread 0 is the idle task of each CPU. */
	if (!(__u32)bpf_get_current_pid_tgid()) {
		__sync_fetch_and_add(&totals.idle, 1);
		if (!include_idle)
			return 0;
	} else if (kernel) {
		__sync_fetch_and_add(&totals.kernel, 1);
	} else {
		__sync_fetch_and_add(&totals.user, 1);
	}
	key.tgid = current_pids() >> 32;
	if (kernel)
		key.kernel = stack_kernel(ctx, now);
	key.user = stack_user(ctx, key.tgid, now);
	bpf_get_current_comm(key.comm, sizeof(key.comm));
	stack_add(&key, 0);
	return 0;
}
