/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef TCPCONNECT_H
#define TCPCONNECT_H

#include "record.bpf.h"

enum tcpconnect_result {
	/* Not known yet. */
	TCPCONNECT_PENDING,
	TCPCONNECT_CONNECTED,
	TCPCONNECT_FAILED,
	/* Its socket was closed or reset by the program before there was an answer. */
	TCPCONNECT_ABANDONED,
};

/* A connect, when its result is known. */
struct tcpconnect_event {
	struct kscope_task task; /* who connects, and when the result was known; in the map of
				    attempts, when it began */
	__u64 latency_ns;	 /* 0: no packet was sent, or it is not known when */
	__u32 error;
	struct kscope_ends ends;
	struct kscope_place place;
	/* What the program asked for, where the kernel made another remote end of it. */
	__u8 asked[16];
	__u16 asked_port;
	__u8 is_moved;
	__u8 result;
};

/* Connects between two ends, of which the local port is 0 unless asked for. */
struct tcpconnect_key {
	struct kscope_ends ends;
	struct kscope_place place; /* of whatever MPTCP connection */
	__u8 asked[16];
	__u16 asked_port;
	__u8 is_moved;
	__u8 pad;
};

_Static_assert(sizeof(struct tcpconnect_key) == 68, "size of tcpconnect_key");

struct tcpconnect_count {
	__u64 connects;
	__u64 failed;
};

_Static_assert(sizeof(struct tcpconnect_count) == 16, "size of tcpconnect_count");

#endif
