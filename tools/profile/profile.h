/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef PROFILE_H
#define PROFILE_H

struct profile_totals {
	__u64 idle;
	__u64 user;
	__u64 kernel;
};

_Static_assert(sizeof(struct profile_totals) == 24, "size of profile_totals");

#endif
