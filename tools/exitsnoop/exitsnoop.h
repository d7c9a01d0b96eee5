/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef EXITSNOOP_H
#define EXITSNOOP_H

struct exitsnoop_event {
	__u64 time_ns;	/* CLOCK_BOOTTIME */
	__u64 start_ns; /* CLOCK_BOOTTIME */
	__u64 cgroup;
	__u32 tgid;
	__u32 tid;
	__u32 ppid;
	__u32 uid;
	__u32 euid;
	__u32 exit_code; /* as wait(2) encodes it */
	__u8 kernel;	 /* a kernel thread, whose end has no status */
	__u8 pad[7];
	__u8 comm[16];
};

_Static_assert(sizeof(struct exitsnoop_event) == 72, "size of exitsnoop_event");

#endif
