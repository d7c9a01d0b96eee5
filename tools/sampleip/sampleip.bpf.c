// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "counters.bpf.h"
#include "filter.bpf.h"
#include "turns.bpf.h"
#include "sampleip.h"

/* Whether to list addresses of the kernel, of user space, and of the idle task. */
const volatile bool list_kernel;
const volatile bool list_user;
const volatile bool list_idle;

struct sampleip_totals totals;

/* User space sets the size (--entries). */
TURNS(struct sampleip_key, struct sampleip_value, 8192)

/* The upper half of the address space is the kernel's, on every architecture that we know. */
static __always_inline bool is_kernel(__u64 ip)
{
	return (__s64)ip < 0;
}

SEC("perf_event")
int sample(struct bpf_perf_event_data *ctx)
{
	struct sampleip_key key = {.ip = PT_REGS_IP(&ctx->regs)};
	struct sampleip_value first = {}, *value;
	bool kernel = is_kernel(key.ip);

	if (!filter_current())
		return 0;
	count(GENERATED);
	/* Thread 0 is the idle task of each CPU. */
	if (!(__u32)bpf_get_current_pid_tgid()) {
		__sync_fetch_and_add(&totals.idle, 1);
		if (!list_idle)
			return 0;
	} else if (kernel) {
		__sync_fetch_and_add(&totals.kernel, 1);
	} else {
		__sync_fetch_and_add(&totals.user, 1);
	}
	if (!(kernel ? list_kernel : list_user))
		return 0;
	if (!kernel) {
		key.tgid = current_pids() >> 32;
		key.stack_start =
			CURRENT_IS_TYPED()
				? bpf_get_current_task_btf()->mm->start_stack
				: BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), mm,
						start_stack);
	}

	bpf_get_current_comm(first.comm, sizeof(first.comm));
	value = turns_value(&key, &first);
	if (value)
		__sync_fetch_and_add(&value->samples, 1);
	return 0;
}
