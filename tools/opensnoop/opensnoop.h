/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef OPENSNOOP_H
#define OPENSNOOP_H

#include "record.bpf.h"

#define OPENSNOOP_PATH_MAX 4096

enum opensnoop_kind {
	OPENSNOOP_SYSCALL,
	/* An open through io_uring is two records, joined by req. */
	OPENSNOOP_URING_SUBMIT,
	OPENSNOOP_URING_COMPLETE,
};

enum opensnoop_call {
	OPENSNOOP_NO_OPEN,
	OPENSNOOP_OPEN,
	OPENSNOOP_CREAT,
	OPENSNOOP_OPENAT,
	OPENSNOOP_OPENAT2,
};

/* Followed by path_len bytes of path and, with -F, dir_len bytes of directory names. */
struct opensnoop_event {
	struct kscope_task task; /* who opens, and when the call ended */
	__u64 req;
	__u64 flags;
	__u32 mode;
	__u32 fsuid;
	__s32 ret;
	__u16 path_len;
	__u16 dir_len;	 /* names from the innermost outwards, each ended by a NUL */
	__u16 dir_below; /* so many bytes of these are below the caller's root */
	__u8 kind;
	__u8 call;
	__u8 compat;
	__u8 path_unreadable;
	__u8 dir_unknown;
	__u8 dir_marks; /* enum path_mark */
	__u8 in_root;	/* openat2: the directory stands for the root */
	__u8 direct; /* io_uring: the file got no descriptor but a place in the ring's own table */
	__u8 pad[6];
};

#endif
