/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef OFFCPUTIME_H
#define OFFCPUTIME_H

/* A task that is off the CPU: since when, with which stacks. */
struct offcputime_start {
	__u64 ns; /* 0: it is not, or is not of interest */
	__u64 kernel;
	__u64 user;
	__u32 tgid;
	__u32 tid;
	__u8 comm[16];
};

_Static_assert(sizeof(struct offcputime_start) == 48, "size of offcputime_start");

#endif
