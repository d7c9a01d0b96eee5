/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef BIOLATENCY_H
#define BIOLATENCY_H

/* What a histogram is of; members that were not asked for are 0. */
struct biolatency_key {
	__u32 dev;
	__u32 cmd_flags;
	__u32 is_bio; /* of a device that makes no requests */
	__u32 pad;
};

_Static_assert(sizeof(struct biolatency_key) == 16, "size of biolatency_key");

#endif
