/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef TCPCONNECT_H
#define TCPCONNECT_H

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
	__u64 time_ns; /* CLOCK_BOOTTIME, at the result; in the map of attempts, at the beginning */
	__u64 latency_ns; /* 0: no packet was sent */
	__u64 cgroup;
	__u32 tgid;
	__u32 tid;
	__u32 uid;
	__u32 error;
	__u8 comm[16];
	struct kscope_ends ends;
	__u8 result;
	__u8 pad[3];
};

_Static_assert(sizeof(struct tcpconnect_event) == 96, "size of tcpconnect_event");

/* Connects between two ends, of which the local port is 0 unless asked for. */
struct tcpconnect_count {
	__u64 connects;
	__u64 failed;
};

_Static_assert(sizeof(struct tcpconnect_count) == 16, "size of tcpconnect_count");

#endif
