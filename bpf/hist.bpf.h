/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Histograms with four buckets to each power of two, counted in the kernel. */
#ifndef KSCOPE_HIST_BPF_H
#define KSCOPE_HIST_BPF_H

#include "kscope.bpf.h"

#define HIST_SLOTS 128

struct kscope_hist {
	__u64 sum_ns;
	__u64 slots[HIST_SLOTS];
};

static __always_inline __u32 hist_log2(__u64 v)
{
	__u32 shift, r;

	r = (v > 0xffffffffULL) << 5;
	v >>= r;
	shift = (v > 0xffff) << 4;
	v >>= shift;
	r |= shift;
	shift = (v > 0xff) << 3;
	v >>= shift;
	r |= shift;
	shift = (v > 0xf) << 2;
	v >>= shift;
	r |= shift;
	shift = (v > 0x3) << 1;
	v >>= shift;
	r |= shift;
	return r | (v >> 1);
}

/* Values below 4 have a slot each; the slots of greater ones are a quarter of their power of two.
 */
static __always_inline __u32 hist_slot(__u64 v)
{
	__u32 log2, slot;

	if (v < 4)
		return v;
	log2 = hist_log2(v);
	slot = ((log2 - 1) << 2) | ((v >> (log2 - 2)) & 3);
	return slot < HIST_SLOTS ? slot : HIST_SLOTS - 1;
}

/* Count a time of ns in units of unit_ns. */
static __always_inline void hist_add(struct kscope_hist *hist, __u64 ns, __u64 unit_ns)
{
	__u32 slot = hist_slot(ns / unit_ns);

	/* It is that small already, but the verifier must see it here. */
	barrier_var(slot);
	slot &= HIST_SLOTS - 1;
	__sync_fetch_and_add(&hist->slots[slot], 1);
	__sync_fetch_and_add(&hist->sum_ns, ns);
}

#endif
