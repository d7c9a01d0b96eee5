/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef TOOLNAME_H
#define TOOLNAME_H

/* What crosses to user space are stacks alone. */

#endif
