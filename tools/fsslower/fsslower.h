/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef FSSLOWER_H
#define FSSLOWER_H

#define FSSLOWER_TYPE_LEN 16
#define FSSLOWER_TYPES_MAX 4
#define FSSLOWER_CALLS_MAX 512

enum fsslower_op {
	FSSLOWER_READ,
	FSSLOWER_WRITE,
	FSSLOWER_OPEN,
	FSSLOWER_FSYNC,
	FSSLOWER_OPS,
};

/* What a system call does, and how it says where in the file. */
enum fsslower_call {
	FSSLOWER_NO_CALL,
	FSSLOWER_CALL_READ,
	FSSLOWER_CALL_WRITE,
	FSSLOWER_CALL_PREAD,
	FSSLOWER_CALL_PWRITE,
	FSSLOWER_CALL_PREADV2,
	FSSLOWER_CALL_PWRITEV2,
	FSSLOWER_CALL_OPEN,
	FSSLOWER_CALL_FSYNC,
};

/* Followed by path_len bytes: the names from the innermost outwards, each ended by a NUL. */
struct fsslower_event {
	__u64 time_ns; /* CLOCK_BOOTTIME, at the end */
	__u64 latency_ns;
	__s64 offset; /* in bytes; -1: none, or not known */
	__s64 ret;    /* bytes, or the error; of an open or fsync 0, or the error */
	__u64 cgroup;
	__u32 tgid;
	__u32 tid;
	__u32 uid;
	__u16 path_len;
	__u8 op;
	__u8 path_incomplete;
	__u8 path_unknown; /* the descriptor is another file's by now */
	__u8 deleted;
	__u8 pad[6];
	__u8 fs_type[FSSLOWER_TYPE_LEN];
	__u8 comm[16];
};

_Static_assert(sizeof(struct fsslower_event) == 96, "size of fsslower_event");

#endif
