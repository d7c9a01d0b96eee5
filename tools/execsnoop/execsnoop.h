/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef EXECSNOOP_H
#define EXECSNOOP_H

#include "record.bpf.h"

#define EXECSNOOP_NAME_MAX 4096
/* Arguments travel in parts of this size, of which the last one comes with the event itself. */
#define EXECSNOOP_PART 8192
#define EXECSNOOP_PARTS 16

enum execsnoop_kind {
	EXECSNOOP_EXEC,
	EXECSNOOP_ARGS,
};

/*
 * Followed by name_len bytes of file name, dir_len bytes of a directory's names, and args_len bytes
 * of arguments, each ended by a NUL.
 */
struct execsnoop_event {
	struct kscope_task task; /* the time and tgid tie the parts of one exec together */
	__u32 ppid;
	__u32 euid; /* of the new program; of a failed exec, the caller's */
	__s32 ret;
	__u32 args_offset; /* of these arguments among all of the exec's */
	__u16 args_len;
	__u16 name_len;
	/* Of an exec that failed for want of a file: where its name starts from, or else works. */
	__u32 root_mnt_id;
	__u16 dir_len;
	__u16 dir_below;
	__u8 dir_marks; /* enum path_mark */
	__u8 dir_is_cwd;
	__u8 kind;
	__u8 args_cut; /* there are more arguments than were taken */
	__u8 args_unreadable;
	__u8 name_unreadable;
	__u8 compat;
	__u8 pad[5];
};

#endif
