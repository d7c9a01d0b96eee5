/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SAMPLEIP_H
#define SAMPLEIP_H

struct sampleip_key {
	__u64 ip;
	__u64 stack_start; /* tells the program from one that the process executes later */
	__u32 tgid;	   /* 0 for a kernel address */
	__u32 pad;
};

_Static_assert(sizeof(struct sampleip_key) == 24, "size of sampleip_key");

struct sampleip_value {
	__u64 samples;
	__u8 comm[16]; /* of the thread in the first sample */
};

_Static_assert(sizeof(struct sampleip_value) == 24, "size of sampleip_value");

struct sampleip_totals {
	__u64 idle;
	__u64 user;
	__u64 kernel;
};

#endif
