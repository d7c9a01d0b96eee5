/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef CAPABLE_H
#define CAPABLE_H

#include "record.bpf.h"

enum capable_unique {
	CAPABLE_UNIQUE_OFF,
	CAPABLE_UNIQUE_PID,
	CAPABLE_UNIQUE_CGROUP,
};

/* Functions of the kernel that ask in a certain way, for hooks that are not told the options. */
#define CAPABLE_CALLERS_MAX 8

struct capable_caller {
	__u64 start;
	__u64 end;
	__u32 opts;
	__u32 pad;
};

_Static_assert(sizeof(struct capable_caller) == 24, "size of capable_caller");

struct capable_event {
	struct kscope_task task; /* of whom it is asked, and when it was decided */
	__u64 kernel_stack;
	__u64 user_stack;
	__u32 cred_uid; /* in the credentials that were checked */
	__u32 cap;
	__s32 ret;
	__u32 user_ns;	    /* inode of the user namespace in which it was asked for */
	__u32 cred_user_ns; /* and of that of the credentials */
	__u32 opts;
	__u8 opts_known;
	__u8 pad[7];
};

#endif
