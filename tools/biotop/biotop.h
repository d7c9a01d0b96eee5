/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef BIOTOP_H
#define BIOTOP_H

struct biotop_key {
	__u32 tgid; /* 0: who submitted it is not known */
	__u32 dev;
	__u32 op;
	__u32 is_bio; /* of a device that makes no requests */
};

_Static_assert(sizeof(struct biotop_key) == 16, "size of biotop_key");

struct biotop_value {
	__u64 ios;
	__u64 bytes;
	__u64 timed; /* of these I/Os, those whose time is known */
	__u64 total_ns;
	__u8 comm[16];
};

_Static_assert(sizeof(struct biotop_value) == 48, "size of biotop_value");

#endif
