/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef BIOSNOOP_H
#define BIOSNOOP_H

struct biosnoop_event {
	__u64 time_ns; /* CLOCK_BOOTTIME, at the end */
	__u64 sector;
	__u64 queue_ns;
	__u64 device_ns;
	__u64 cgroup;
	__u32 bytes;
	__u32 dev;
	__u32 cmd_flags;
	__u32 bios;
	__u32 others;
	__u32 tgid; /* 0: who submitted it is not known */
	__u32 tid;
	__u32 uid;
	__s32 status; /* as block_io's */
	__u8 has_queue_time;
	__u8 has_device_time;
	__u8 is_bio;
	__u8 is_part;
	__u8 comm[16];
};

_Static_assert(sizeof(struct biosnoop_event) == 96, "size of biosnoop_event");

#endif
