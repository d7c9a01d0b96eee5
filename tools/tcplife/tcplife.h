/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef TCPLIFE_H
#define TCPLIFE_H

#include "record.bpf.h"

enum tcplife_side {
	TCPLIFE_SIDE_UNKNOWN,
	TCPLIFE_CONNECTED,
	TCPLIFE_ACCEPTED,
};

struct tcplife_event {
	struct kscope_task task; /* who it belongs to, and when it ended */
	__u64 duration_ns;	 /* since it was established; 0: not known */
	__u64 sent;
	__u64 received;
	struct kscope_ends ends;
	struct kscope_place place;
	__u8 side;
	__u8 pad[7];
};

#endif
