/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What every program of the suite includes first. */
#ifndef KSCOPE_BPF_H
#define KSCOPE_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

/* libbpf relocates by a part of the kernel's types (lib/src/kernel_types.rs), in which these would
 * find no match, or other ids. */
#undef bpf_core_type_matches
#undef bpf_core_type_id_kernel
#pragma GCC poison bpf_core_type_matches bpf_core_type_id_kernel

#define KSCOPE_COMM_LEN 16

/*
 * Read a field of a kernel object in code that serves several ways of hooking. btf, a compile-time
 * constant, says that ptr is an argument of a tp_btf, fentry or fexit program: then the load is
 * direct and costs next to nothing, else it goes through a probe read (about 20 ns).
 */
#define FIELD(btf, ptr, field) ((btf) ? (ptr)->field : BPF_CORE_READ(ptr, field))

/* Whether the verifier knows the running task's type; bpf_get_current_task_btf() came with 5.11. */
#define CURRENT_IS_TYPED()                                                                         \
	bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)

/* The running task. Asked for twice it costs twice, some 8 ns: ask once where each one counts. */
static __always_inline struct task_struct *current_task(void)
{
	if (CURRENT_IS_TYPED())
		return bpf_get_current_task_btf();
	return (struct task_struct *)bpf_get_current_task();
}

/* A field of the running task; CURRENT_FIELD() takes what current_task() gave. */
#define CURRENT(field) CURRENT_FIELD(current_task(), field)
#define CURRENT_FIELD(task, field) FIELD(CURRENT_IS_TYPED(), task, field)

/* bpf_probe_read_user_str(), which before 6.13 returns 0 for an empty string, and not 1. */
static __always_inline long read_user_str(__u8 *to, __u32 size, const void *from)
{
	long len = bpf_probe_read_user_str(to, size, from);

	if (len)
		return len;
	*to = 0;
	return 1;
}

/*
 * Argument n, a constant, of a raw tracepoint. For programs that choose between arguments: a load
 * of its own keeps the compiler from computing the offset, which kernels before 5.15 refuse.
 */
#define RAW_ARG(ctx, n)                                                                            \
	({                                                                                         \
		__u64 __arg;                                                                       \
		asm volatile("%0 = *(u64 *)(%1 + %2)" : "=r"(__arg) : "r"(ctx), "i"((n)*8));       \
		__arg;                                                                             \
	})

/*
 * Calls of the kernel's functions of these names, of which user space (lib/src/kernel_types.rs)
 * makes such, or nothing. Declared by their names, libbpf would read all of the kernel's types for
 * them.
 */
enum kscope_call {
	BPF_PREEMPT_DISABLE = 0x6b730001,
	BPF_PREEMPT_ENABLE,
};

enum kscope_call *kscope_calls __attribute__((unused));

static void (*const bpf_preempt_disable)(void) = (void *)BPF_PREEMPT_DISABLE;
static void (*const bpf_preempt_enable)(void) = (void *)BPF_PREEMPT_ENABLE;

/*
 * From 7.0 on the kernel calls programs on tracepoints with preemption on. Meanwhile other tasks on
 * the CPU are lost to the program, since none runs twice on a CPU, and other programs may overwrite
 * its per-CPU memory. NO_PREEMPT() switches preemption off up to the end of the function, where the
 * kernel does not.
 */
static __always_inline bool preempt_off(void)
{
	bpf_preempt_disable();
	return true;
}

static __always_inline void preempt_on(const bool *unused)
{
	bpf_preempt_enable();
}

#define NO_PREEMPT()                                                                               \
	__attribute__((cleanup(preempt_on), unused)) const bool __preempt_off = preempt_off()

/*
 * The hook at a tracepoint, by tp_btf and raw_tp: `call` sees btf and ctx, which holds the
 * arguments. TRACEPOINT_HOOK_AS() is for one that has several names over the kernels, as another
 * variant of each way.
 */
#define TRACEPOINT_HOOK(hook, tracepoint, call) TRACEPOINT_HOOK_AS(hook, , tracepoint, call)
#define TRACEPOINT_HOOK_AS(hook, variant, tracepoint, call)                                        \
	static __always_inline int hook##__body##variant(bool btf, __u64 *ctx)                     \
	{                                                                                          \
		NO_PREEMPT();                                                                      \
		return call;                                                                       \
	}                                                                                          \
	SEC("tp_btf/" tracepoint)                                                                  \
	int hook##__tp_btf##variant(__u64 *ctx)                                                    \
	{                                                                                          \
		return hook##__body##variant(true, ctx);                                           \
	}                                                                                          \
	SEC("raw_tp/" tracepoint)                                                                  \
	int hook##__raw_tp##variant(__u64 *ctx)                                                    \
	{                                                                                          \
		return hook##__body##variant(false, ctx);                                          \
	}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#endif
