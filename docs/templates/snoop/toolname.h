/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef TOOLNAME_H
#define TOOLNAME_H

#include "record.bpf.h"

struct toolname_event {
	struct kscope_task task; /* who ended, and when */
	__u32 exit_code;	 /* as wait(2) encodes it */
	__u8 pad[4];
};

#endif
