/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef TCPLIFE_H
#define TCPLIFE_H

enum tcplife_side {
	TCPLIFE_SIDE_UNKNOWN,
	TCPLIFE_CONNECTED,
	TCPLIFE_ACCEPTED,
};

/* Who a connection belongs to. */
struct tcplife_owner {
	__u64 cgroup;
	__u32 tgid; /* 0: not known, as the rest */
	__u32 uid;
	__u8 comm[16];
};

_Static_assert(sizeof(struct tcplife_owner) == 32, "size of tcplife_owner");

/* A connection that has ended. */
struct tcplife_event {
	__u64 time_ns;	   /* CLOCK_BOOTTIME, at the end */
	__u64 duration_ns; /* since it was established; 0: not known */
	__u64 sent;
	__u64 received;
	struct tcplife_owner owner;
	struct kscope_ends ends;
	struct kscope_place place;
	__u8 side;
	__u8 pad[7];
};

_Static_assert(sizeof(struct tcplife_event) == 120, "size of tcplife_event");

#endif
