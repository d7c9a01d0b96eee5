/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef GETHOSTLATENCY_H
#define GETHOSTLATENCY_H

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
	__u64 time_ns; /* CLOCK_BOOTTIME, at the end of the call */
	__u64 latency_ns;
	__u64 cgroup;
	__u32 tgid;
	__u32 tid;
	__u32 uid;
	__s32 ret; /* getaddrinfo: EAI_*; the _r functions: an errno */
	__s32 h_errno;
	__u16 host_len;
	__u8 call;
	__u8 failed;
	__u8 no_host; /* the caller passed no name, and no address of the internet */
	__u8 host_unreadable;
	__u8 host_cut;
	__u8 family; /* of an address: AF_INET or AF_INET6 */
	__u8 pad[4];
	__u8 comm[16];
};

_Static_assert(sizeof(struct gethostlatency_event) == 72, "size of gethostlatency_event");

#endif
