/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef SYSCOUNT_H
#define SYSCOUNT_H

/* Numbers below have a slot each, of 64-bit and of 32-bit callers. */
#define SYSCOUNT_NUMBERS 512

enum syscount_abi {
	SYSCOUNT_NATIVE,
	SYSCOUNT_COMPAT,
	SYSCOUNT_X32,
};

struct syscount_count {
	__u64 count;
	__u64 errors;
	__u64 total_ns;
};

/* A call that has no slot of its own. */
struct syscount_call {
	__s32 nr;
	__u32 abi;
};

struct syscount_process_key {
	__u32 tgid;
	__u32 uring; /* 1: operations of io_uring */
};

struct syscount_process {
	struct syscount_count count;
	__u8 comm[16]; /* of the process, not of the thread */
};

_Static_assert(sizeof(struct syscount_count) == 24, "size of syscount_count");
_Static_assert(sizeof(struct syscount_call) == 8, "size of syscount_call");
_Static_assert(sizeof(struct syscount_process_key) == 8, "size of syscount_process_key");
_Static_assert(sizeof(struct syscount_process) == 40, "size of syscount_process");

#endif
