/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef EXITSNOOP_H
#define EXITSNOOP_H

#include "record.bpf.h"

struct exitsnoop_event {
	struct kscope_task task; /* who ended, and when */
	__u64 start_ns;		 /* CLOCK_BOOTTIME */
	__u32 ppid;
	__u32 euid;
	__u32 exit_code; /* as wait(2) encodes it */
	__u8 kernel;	 /* a kernel thread, whose end has no status */
	__u8 pad[3];
};

#endif
