/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Functions of user space, at their entry and at their return. lib/src/uprobe.rs attaches programs
 * by their names. <hook>__uprobe_multi and <hook>__uretprobe_multi, in the sections uprobe.multi
 * and uretprobe.multi, are attached to all functions of a file by one link, and ask
 * function_cookie() which one it is: where there are such links, they take fewer privileges and
 * descriptors. Elsewhere, <hook>__uprobe_<function> and <hook>__uretprobe_<function>, in uprobe and
 * uretprobe, are attached to one function each.
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

/* The seventh and the eighth argument of a function. */
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

static __always_inline __u64 entry_arg8(struct pt_regs *ctx)
{
#if defined(__TARGET_ARCH_x86)
	__u64 arg = 0;

	bpf_probe_read_user(&arg, sizeof(arg), (void *)(ENTRY_SP(ctx) + 16));
	return arg;
#else
	return PT_REGS_PARM8(ctx);
#endif
}

/* The number that user space gave the function. */
static __always_inline __u64 function_cookie(struct pt_regs *ctx)
{
	return bpf_get_attach_cookie(ctx);
}

#endif
