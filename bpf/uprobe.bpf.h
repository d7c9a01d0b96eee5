/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Functions of user space, at their entry and at their return. lib/src/uprobe.rs attaches programs
 * by their names: <function>__uprobe and <function>_return__uretprobe, in the sections uprobe and
 * uretprobe, or <function>__uprobe_multi and <function>_return__uretprobe_multi, in uprobe.multi
 * and uretprobe.multi: where there are such links, they take fewer privileges.
 *
 * These programs may be preempted by others of their kind: no scratch memory by CPU.
 */
#ifndef KSCOPE_UPROBE_BPF_H
#define KSCOPE_UPROBE_BPF_H

#include "kscope.bpf.h"

/* The stack pointer tells calls of a thread apart: the return sees that of the entry again. */
#define ENTRY_SP(ctx) ((__u64)PT_REGS_SP(ctx))

#if defined(__TARGET_ARCH_x86)
/* The return address is popped by then. */
#define RETURN_SP(ctx) ((__u64)PT_REGS_SP(ctx) - 8)
#else
#define RETURN_SP(ctx) ((__u64)PT_REGS_SP(ctx))
#endif

/* The seventh argument of a function. */
static __always_inline __u64 entry_arg7(struct pt_regs *ctx)
{
#if defined(__TARGET_ARCH_x86)
	__u64 arg = 0;

	/* On the stack, behind the return address. */
	bpf_probe_read_user(&arg, sizeof(arg), (void *)(ENTRY_SP(ctx) + 8));
	return arg;
#else
	return PT_REGS_PARM7(ctx);
#endif
}

#endif
