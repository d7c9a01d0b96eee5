// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "counters.bpf.h"
#include "filter.bpf.h"
#include "sampleip.h"

/* Whether to list addresses of the kernel, of user space, and of the idle task. */
const volatile bool list_kernel;
const volatile bool list_user;
const volatile bool list_idle;

struct sampleip_totals totals;

/* User space sets the size (--entries). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct sampleip_key);
	__type(value, struct sampleip_value);
} addresses SEC(".maps");

/* The upper half of the address space is the kernel's, on every architecture that we know. */
static __always_inline bool is_kernel(__u64 ip)
{
	return (__s64)ip < 0;
}

SEC("perf_event")
int sample(struct bpf_perf_event_data *ctx)
{
	struct sampleip_key key = {.ip = PT_REGS_IP(&ctx->regs)};
	struct sampleip_value first = {.samples = 1}, *value;
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
	if (!kernel)
		key.tgid = current_pids() >> 32;

	value = bpf_map_lookup_elem(&addresses, &key);
	if (!value) {
		bpf_get_current_comm(first.comm, sizeof(first.comm));
		if (!bpf_map_update_elem(&addresses, &key, &first, BPF_NOEXIST))
			return 0;
		/* Another CPU was first, or the map is full. */
		value = bpf_map_lookup_elem(&addresses, &key);
	}
	if (value)
		__sync_fetch_and_add(&value->samples, 1);
	else
		count(LOST_MAP_FULL);
	return 0;
}
