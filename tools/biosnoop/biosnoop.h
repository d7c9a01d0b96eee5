/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef BIOSNOOP_H
#define BIOSNOOP_H

#include "record.bpf.h"

struct biosnoop_event {
	struct kscope_task task; /* who submitted it, and when it ended */
	__u64 sector;
	__u64 queue_ns;
	__u64 device_ns;
	__u32 bytes;
	__u32 dev;
	__u32 cmd_flags;
	__u32 bios;
	__u32 others;
	__s32 status; /* as block_io's */
	__u8 has_queue_time;
	__u8 has_device_time;
	__u8 is_bio;
	__u8 is_part;
	__u8 pad[4];
};

#endif
