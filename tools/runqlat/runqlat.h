/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef RUNQLAT_H
#define RUNQLAT_H

#include "hist.bpf.h"

/* Whose histogram it is; members that were not asked for are 0. */
struct runqlat_key {
	__u32 tgid;
	__u32 tid;
	__u32 pidns;
	__u32 pad;
};

struct runqlat_value {
	__u8 comm[KSCOPE_COMM_LEN]; /* of the process, or of the thread */
	struct kscope_hist hist;
};

_Static_assert(sizeof(struct runqlat_key) == 16, "size of runqlat_key");
_Static_assert(sizeof(struct runqlat_value) == 1048, "size of runqlat_value");

#endif
