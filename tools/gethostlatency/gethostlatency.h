/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef GETHOSTLATENCY_H
#define GETHOSTLATENCY_H

#include "record.bpf.h"

#define GETHOSTLATENCY_HOST_SIZE 256

/* A function may call one below it with the same name, to do its work. */
enum gethostlatency_call {
	GETHOSTLATENCY_GETADDRINFO,
	GETHOSTLATENCY_GETHOSTBYNAME,
	GETHOSTLATENCY_GETHOSTBYNAME2,
	GETHOSTLATENCY_GETHOSTBYNAME_R,
	GETHOSTLATENCY_GETHOSTBYNAME2_R,
	GETHOSTLATENCY_GETHOSTBYADDR,
	GETHOSTLATENCY_GETHOSTBYADDR_R,
	GETHOSTLATENCY_GETNAMEINFO,
	GETHOSTLATENCY_RES_QUERY,
	GETHOSTLATENCY_RES_SEARCH,
	GETHOSTLATENCY_RES_NQUERY,
	GETHOSTLATENCY_RES_NSEARCH,
	GETHOSTLATENCY_CALLS,
};

/* Followed by host_len bytes of the host's name, or of its address. */
struct gethostlatency_event {
	struct kscope_task task; /* who asks, and when the call ended */
	__u64 latency_ns;
	__s32 ret; /* getaddrinfo: EAI_*; the _r functions: an errno */
	__s32 h_errno;
	__u16 host_len;
	__u8 call;
	__u8 failed;
	__u8 no_host; /* the caller passed no name, and no address of the internet */
	__u8 host_unreadable;
	__u8 host_cut;
	__u8 family; /* of an address: AF_INET or AF_INET6 */
};

#endif
