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

/* What is counted by process. */
enum syscount_process {
	SYSCOUNT_CALLS = 16,
	SYSCOUNT_URING,
};

/* Calls that have no slot of their own, by number and ABI; and processes. */
struct syscount_key {
	__u32 id;
	__u32 kind; /* enum syscount_abi, or enum syscount_process */
};

struct syscount_value {
	struct syscount_count count;
	__u8 comm[16]; /* of the process, not of the thread */
};

_Static_assert(sizeof(struct syscount_count) == 24, "size of syscount_count");
_Static_assert(sizeof(struct syscount_key) == 8, "size of syscount_key");
_Static_assert(sizeof(struct syscount_value) == 40, "size of syscount_value");

#endif
