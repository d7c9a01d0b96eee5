/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef TOOLNAME_H
#define TOOLNAME_H

struct toolname_key {
	__u32 tgid;
};

struct toolname_value {
	__u64 ends;
	__u8 comm[16];
};

#endif
