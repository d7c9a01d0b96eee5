/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The one way in which records leave the kernel: a ring buffer, with every loss counted. */
#ifndef KSCOPE_EVENTS_BPF_H
#define KSCOPE_EVENTS_BPF_H

#include "counters.bpf.h"

/* A wake-up costs two hundred times as much as a record: at most 50 a second while records come. */
#define EVENTS_WAKE_NS 20000000ULL
/* Above that, one each time that another eighth of the buffer has filled. */
#define EVENTS_WAKE_PARTS 8

/* User space sets the size (--buffer). */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 * 1024 * 1024);
} events SEC(".maps");

__u64 events_woken_ns;

static __always_inline __u64 events_flags(__u64 now, __u64 size)
{
	__u64 used, part;

	if (now - events_woken_ns > EVENTS_WAKE_NS) {
		events_woken_ns = now;
		return BPF_RB_FORCE_WAKEUP;
	}
	part = bpf_ringbuf_query(&events, BPF_RB_RING_SIZE) / EVENTS_WAKE_PARTS;
	used = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);
	if (part && used / part != (used + size) / part)
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

/* Send a record that is no event of its own. now is any recent bpf_ktime_get_boot_ns(). */
static __always_inline long events_send(void *record, __u64 size, __u64 now)
{
	return bpf_ringbuf_output(&events, record, size, events_flags(now, size));
}

/* Send an event, a record of variable length. */
static __always_inline void events_output(void *record, __u64 size, __u64 now)
{
	count(GENERATED);
	if (events_send(record, size, now))
		count(LOST_RING_FULL);
}

#endif
