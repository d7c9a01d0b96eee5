/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef BIOLATENCY_H
#define BIOLATENCY_H

enum biolatency_layer {
	BIOLATENCY_REQUEST,
	BIOLATENCY_STACKED, /* requests that are done by a file system or by other disks */
	BIOLATENCY_BIO,	    /* of a device that makes no requests */
	BIOLATENCY_LAYERS,
};

/* What a histogram is of; members that were not asked for are 0. */
struct biolatency_key {
	__u32 dev;
	__u32 cmd_flags;
	__u32 layer;
	__u32 pad;
};

_Static_assert(sizeof(struct biolatency_key) == 16, "size of biolatency_key");

#endif
