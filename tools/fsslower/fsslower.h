/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef FSSLOWER_H
#define FSSLOWER_H

#include "record.bpf.h"

#define FSSLOWER_TYPE_LEN 16
#define FSSLOWER_TYPES_MAX 4
#define FSSLOWER_CALLS_MAX 512

enum fsslower_op {
	FSSLOWER_READ,
	FSSLOWER_WRITE,
	FSSLOWER_OPEN,
	FSSLOWER_FSYNC,
	FSSLOWER_READDIR,
	FSSLOWER_STAT,
	FSSLOWER_COPY,
	FSSLOWER_CHANGE,
	FSSLOWER_OPS,
};

/* Of functions, those up to here are hooked: one may be in each of them at once. */
#define FSSLOWER_NESTED 4

/* Which arguments of a system call say what it is about. */
enum fsslower_form {
	FSSLOWER_FD,	       /* a descriptor, the first one */
	FSSLOWER_FD_AT,	       /* and a position, the fourth */
	FSSLOWER_FD_AT_OR_POS, /* or -1 for where the file stands, and flags */
	FSSLOWER_FROM_TO,      /* descriptors, the first and the third */
	FSSLOWER_TO_FROM,      /* descriptors, the first two */
	FSSLOWER_PATH,	       /* a path, the first one */
	FSSLOWER_PATH2,	       /* a path, the second one */
	FSSLOWER_DIR_PATH,     /* a folder's descriptor and a path, the first two */
	FSSLOWER_DIR_PATH2,    /* those behind the first one */
};

/* An entry of the table of calls, for each kind of caller; 0: such a call is of no interest. */
#define FSSLOWER_CALL(op, form) ((op) + 1 | (form) << 4)

/*
 * Followed by path_len bytes, the names from the innermost outwards, each ended by a NUL; and by
 * string_len bytes, a path as the caller gave it, which begins there if it is relative.
 */
struct fsslower_event {
	struct kscope_task task; /* who does it, and when it ended */
	__u64 latency_ns;
	__s64 offset; /* in bytes; -1: none, or not known */
	__s64 ret;    /* bytes, or the error; where no bytes are moved 0, or the error */
	__u16 path_len;
	__u16 string_len;
	__s16 nr; /* of the system call, by compat one of 32 bits; -1: a function */
	__u8 compat;
	__u8 op;
	__u8 path_marks;   /* enum path_mark */
	__u8 path_unknown; /* the descriptor is another file's by now, or the path can't be read */
	__u8 deleted;
	__u8 unfinished; /* it goes on at the tool's end */
	__u8 fs_type[FSSLOWER_TYPE_LEN];
	__u8 pad[4];
};

#endif
