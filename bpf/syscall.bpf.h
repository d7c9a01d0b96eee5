/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The system call that a task is in, from the registers that the kernel keeps until it returns. */
#ifndef KSCOPE_SYSCALL_BPF_H
#define KSCOPE_SYSCALL_BPF_H

#include "kscope.bpf.h"

/* Of x86-64 and arm64. */
#define THREAD_SIZE 16384

/*
 * For programs that are not given the registers: CURRENT_REGS_HELPER() says whether
 * bpf_task_pt_regs() knows them (5.15); elsewhere they are where the kernel's stack begins.
 */
#define CURRENT_REGS_HELPER() bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs)

static __always_inline struct pt_regs *stack_regs(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	return (struct pt_regs *)((__u64)BPF_CORE_READ(task, stack) + THREAD_SIZE) - 1;
}

/* The registers of the system call that the running task is in, to be read by probe reads. */
static __always_inline struct pt_regs *current_regs(void)
{
	if (CURRENT_REGS_HELPER())
		return (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	return stack_regs();
}

#if defined(__TARGET_ARCH_x86)

#define X32_SYSCALL_BIT 0x40000000
#define TS_COMPAT 2

#define SYSCALL_NR(btf, regs) ((int)FIELD(btf, regs, orig_ax) & ~X32_SYSCALL_BIT)
/* With the bit that makes it a call of the x32 ABI. */
#define SYSCALL_RAW_NR(btf, regs) ((int)FIELD(btf, regs, orig_ax))
#define SYSCALL_NR_IS_X32(nr) ((nr) > 0 && ((nr)&X32_SYSCALL_BIT))
#define SYSCALL_OF_IS_COMPAT(task) (CURRENT_FIELD(task, thread_info.status) & TS_COMPAT)
#define SYSCALL_ARG1(btf, regs, compat)                                                            \
	((compat) ? (__u32)FIELD(btf, regs, bx) : FIELD(btf, regs, di))
#define SYSCALL_ARG2(btf, regs, compat)                                                            \
	((compat) ? (__u32)FIELD(btf, regs, cx) : FIELD(btf, regs, si))
#define SYSCALL_ARG3(btf, regs, compat)                                                            \
	((compat) ? (__u32)FIELD(btf, regs, dx) : FIELD(btf, regs, dx))
#define SYSCALL_ARG4(btf, regs, compat)                                                            \
	((compat) ? (__u32)FIELD(btf, regs, si) : FIELD(btf, regs, r10))
#define SYSCALL_ARG5(btf, regs, compat)                                                            \
	((compat) ? (__u32)FIELD(btf, regs, di) : FIELD(btf, regs, r8))
#define SYSCALL_ARG6(btf, regs, compat)                                                            \
	((compat) ? (__u32)FIELD(btf, regs, bp) : FIELD(btf, regs, r9))

/* Of 64-bit callers; -1: this architecture has no such call. */
#define NR_OPEN 2
#define NR_CREAT 85
#define NR_OPENAT 257
#define NR_OPENAT2 437
#define NR_EXECVE 59
#define NR_EXECVEAT 322
#define NR_CLONE 56
#define NR_FORK 57
#define NR_VFORK 58
#define NR_CLONE3 435
#define NR_EXIT 60
#define NR_EXIT_GROUP 231
#define NR_CONNECT 42
#define NR_SENDTO 44
#define NR_SENDMSG 46
/* Of 32-bit callers. */
#define NR_COMPAT_OPEN 5
#define NR_COMPAT_CREAT 8
#define NR_COMPAT_OPENAT 295
#define NR_COMPAT_OPENAT2 437
#define NR_COMPAT_EXECVE 11
#define NR_COMPAT_EXECVEAT 358
#define NR_COMPAT_EXIT_GROUP 252
#define NR_COMPAT_CONNECT 362
#define NR_COMPAT_SOCKETCALL 102

#elif defined(__TARGET_ARCH_arm64)

#define TIF_32BIT 22

#define SYSCALL_NR(btf, regs) ((int)FIELD(btf, regs, syscallno))
#define SYSCALL_RAW_NR(btf, regs) SYSCALL_NR(btf, regs)
#define SYSCALL_NR_IS_X32(nr) false
#define SYSCALL_OF_IS_COMPAT(task) ((CURRENT_FIELD(task, thread_info.flags) >> TIF_32BIT) & 1)
/* The first argument's own register holds the result by now. */
#define SYSCALL_ARG1(btf, regs, compat) FIELD(btf, regs, orig_x0)
#define SYSCALL_ARG2(btf, regs, compat) FIELD(btf, regs, regs[1])
#define SYSCALL_ARG3(btf, regs, compat) FIELD(btf, regs, regs[2])
#define SYSCALL_ARG4(btf, regs, compat) FIELD(btf, regs, regs[3])
#define SYSCALL_ARG5(btf, regs, compat) FIELD(btf, regs, regs[4])
#define SYSCALL_ARG6(btf, regs, compat) FIELD(btf, regs, regs[5])

#define NR_OPEN -1
#define NR_CREAT -1
#define NR_OPENAT 56
#define NR_OPENAT2 437
#define NR_EXECVE 221
#define NR_EXECVEAT 281
#define NR_CLONE 220
#define NR_FORK -1
#define NR_VFORK -1
#define NR_CLONE3 435
#define NR_EXIT 93
#define NR_EXIT_GROUP 94
#define NR_CONNECT 203
#define NR_SENDTO 206
#define NR_SENDMSG 211
#define NR_COMPAT_OPEN 5
#define NR_COMPAT_CREAT 8
#define NR_COMPAT_OPENAT 322
#define NR_COMPAT_OPENAT2 437
#define NR_COMPAT_EXECVE 11
#define NR_COMPAT_EXECVEAT 387
#define NR_COMPAT_EXIT_GROUP 248
#define NR_COMPAT_CONNECT 283
#define NR_COMPAT_SOCKETCALL -1

#else
#error "bpf/syscall.bpf.h does not know this architecture's registers"
#endif

/* Whether the running task, by itself or as current_task() gave it, is a 32-bit caller. */
#define SYSCALL_IS_COMPAT() SYSCALL_OF_IS_COMPAT(current_task())

/* At the end of a call, the registers have none if it was the return from a signal handler. */
#define SYSCALL_NO_NUMBER -1
/* For user space: a successful execve or execveat, where it is not known which. */
#define SYSCALL_EXEC -2

/* Of 32-bit callers, on x86 and Arm alike. */
#define NR_COMPAT_EXIT 1
#define NR_COMPAT_FORK 2
#define NR_COMPAT_CLONE 120
#define NR_COMPAT_VFORK 190
#define NR_COMPAT_CLONE3 435

/* A new task begins as if it returned from the call that made it: with 0, which no parent gets. */
static __always_inline bool syscall_is_child(int nr, long ret, bool compat)
{
	if (ret)
		return false;
	if (compat)
		return nr == NR_COMPAT_CLONE || nr == NR_COMPAT_CLONE3 || nr == NR_COMPAT_FORK ||
		       nr == NR_COMPAT_VFORK;
	return nr == NR_CLONE || nr == NR_CLONE3 || nr == NR_FORK || nr == NR_VFORK;
}

static __always_inline bool syscall_is_exec(int nr, bool compat)
{
	if (compat)
		return nr == NR_COMPAT_EXECVE || nr == NR_COMPAT_EXECVEAT;
	return nr == NR_EXECVE || nr == NR_EXECVEAT;
}

/* The calls that do not return. */
static __always_inline bool syscall_is_exit(int nr, bool compat)
{
	if (compat)
		return nr == NR_COMPAT_EXIT || nr == NR_COMPAT_EXIT_GROUP;
	return nr == NR_EXIT || nr == NR_EXIT_GROUP;
}

/*
 * The hook at the end of system calls, by each way: handler(btf, regs, ret). And that at their
 * beginning: handler(btf, regs, nr).
 */
#define SYS_EXIT_HOOK(hook, handler)                                                               \
	SYSCALL_HOOK(hook, handler, "sys_exit", struct trace_event_raw_sys_exit, ret)
#define SYS_ENTER_HOOK(hook, handler)                                                              \
	SYSCALL_HOOK(hook, handler, "sys_enter", struct trace_event_raw_sys_enter, id)

#define SYSCALL_HOOK(hook, handler, tracepoint, record, member)                                    \
	SEC("tp_btf/" tracepoint)                                                                  \
	int BPF_PROG(hook##__tp_btf, struct pt_regs *regs, long value)                             \
	{                                                                                          \
		NO_PREEMPT();                                                                      \
		return handler(true, regs, value);                                                 \
	}                                                                                          \
                                                                                                   \
	SEC("raw_tp/" tracepoint)                                                                  \
	int BPF_PROG(hook##__raw_tp, struct pt_regs *regs, long value)                             \
	{                                                                                          \
		NO_PREEMPT();                                                                      \
		return handler(false, regs, value);                                                \
	}                                                                                          \
                                                                                                   \
	SEC("tp/raw_syscalls/" tracepoint)                                                         \
	int hook##__tp(record *ctx)                                                                \
	{                                                                                          \
		if (CURRENT_REGS_HELPER())                                                         \
			return handler(true, (void *)bpf_task_pt_regs(bpf_get_current_task_btf()), \
				       ctx->member);                                               \
		return handler(false, stack_regs(), ctx->member);                                  \
	}

#endif
