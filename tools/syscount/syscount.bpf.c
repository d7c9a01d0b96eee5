// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "counters.bpf.h"
#include "filter.bpf.h"
#include "syscall.bpf.h"
#include "task.bpf.h"
#include "turns.bpf.h"
#include "uring.bpf.h"
#include "syscount.h"

#define ERRNO_MAX 4095
#define OTHERS_MAX 1024
#define URING_OPS 256
#define URING_IN_FLIGHT_MAX 16384

const volatile bool per_process;
const volatile bool latency;
const volatile bool failed_only;
/* With failed_only. */
const volatile __u32 only_errno;
/* The hook exec is there, and tells execveat from execve. */
const volatile bool exec_is_known;

/* The call that a task is in: kept where it is measured, and of a task that execs. */
struct syscount_begun {
	__u64 start; /* 0: in none */
	__s32 nr;
	__u32 abi;
};

TASK_VALUES(begun, struct syscount_begun)

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * SYSCOUNT_NUMBERS);
	__type(key, __u32);
	__type(value, struct syscount_count);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, URING_OPS);
	__type(key, __u32);
	__type(value, struct syscount_count);
} uring_ops SEC(".maps");

/* Processes, of which user space sets the number (--entries); or calls that have no slot. */
TURNS(struct syscount_key, struct syscount_value, OTHERS_MAX)

/*
 * When the operations of io_uring that are to complete were submitted. Some never do so visibly:
 * the oldest make room, and one that completes after that is dropped and counted.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, URING_IN_FLIGHT_MAX);
	__type(key, __u64);
	__type(value, __u64);
} uring_starts SEC(".maps");

/* Without a sum, the loss is counted. own: it is this CPU's, and nothing that adds to it interrupts
 * this. */
static __always_inline void add(struct syscount_count *sum, bool own, bool failed, __u64 ns)
{
	if (!sum)
		return;
	if (own) {
		sum->count++;
		if (failed)
			sum->errors++;
		if (latency)
			sum->total_ns += ns;
		return;
	}
	__sync_fetch_and_add(&sum->count, 1);
	if (failed)
		__sync_fetch_and_add(&sum->errors, 1);
	if (latency)
		__sync_fetch_and_add(&sum->total_ns, ns);
}

static __always_inline struct syscount_count *find_process(struct task_struct *task, bool uring,
							   bool renamed)
{
	struct syscount_key key = {.kind = uring ? SYSCOUNT_URING : SYSCOUNT_CALLS};
	struct syscount_value zero = {}, *process;

	key.id = (uring ? task_pids(false, task) : current_pids()) >> 32;
	process = turns_value(&key, &zero);
	if (!process)
		return NULL;
	if (renamed || !process->comm[0])
		BPF_CORE_READ_INTO(&process->comm, task, group_leader, comm);
	return &process->count;
}

/* Calls begin and end outside of interrupts, and nothing preempts this. */
static __always_inline void count_number(__s32 nr, __u32 abi, bool failed, __u64 ns)
{
	struct syscount_key key = {.id = nr, .kind = abi};
	struct syscount_value zero = {}, *other;

	if (abi != SYSCOUNT_X32 && (__u32)nr < SYSCOUNT_NUMBERS) {
		__u32 slot = nr + (abi == SYSCOUNT_COMPAT ? SYSCOUNT_NUMBERS : 0);

		add(bpf_map_lookup_elem(&calls, &slot), true, failed, ns);
		return;
	}
	other = turns_value(&key, &zero);
	if (other)
		add(&other->count, false, failed, ns);
}

static __always_inline void count_call(__s32 nr, __u32 abi, bool renamed, bool failed, __u64 ns)
{
	if (per_process)
		add(find_process((struct task_struct *)bpf_get_current_task(), false, renamed),
		    false, failed, ns);
	else
		count_number(nr, abi, failed, ns);
}

/* Whether a call that ended so is asked for. */
static __always_inline bool wanted(long ret, bool *failed)
{
	*failed = ret < 0 && ret >= -ERRNO_MAX;
	if (!failed_only)
		return true;
	return only_errno ? ret == -(long)only_errno : *failed;
}

static __always_inline __u32 abi_of(__s32 *nr, bool compat)
{
	if (compat)
		return SYSCOUNT_COMPAT;
	if (!SYSCALL_NR_IS_X32(*nr))
		return SYSCOUNT_NATIVE;
	*nr &= ~0x40000000;
	return SYSCOUNT_X32;
}

static __always_inline int on_sys_exit(bool btf, struct pt_regs *regs, long ret)
{
	struct syscount_begun *begin;
	struct task_struct *task;
	__s32 nr = SYSCALL_RAW_NR(btf, regs);
	bool compat, exec, failed, is_wanted;
	__u64 ns = 0;
	__u32 abi;

	/* Signal handlers end with a call whose result is that of whatever they interrupted. */
	if (nr == SYSCALL_NO_NUMBER)
		ret = 0;
	is_wanted = wanted(ret, &failed);
	if (!latency && !is_wanted)
		return 0;
	task = current_task();
	if (!filter_current_task(task))
		return 0;
	compat = SYSCALL_OF_IS_COMPAT(task);
	if (nr != SYSCALL_NO_NUMBER && syscall_is_child(nr, ret, compat))
		return 0;
	exec = !ret && syscall_is_exec(nr, compat);
	abi = abi_of(&nr, compat);
	if (latency) {
		begin = begun_find_current();
		if (!begin || !begin->start) {
			if (is_wanted)
				count(DROPPED_UNKNOWN_START);
			return 0;
		}
		ns = bpf_ktime_get_ns() - begin->start;
		nr = begin->nr;
		abi = begin->abi;
		begin->start = 0;
		if (!is_wanted)
			return 0;
		if ((__s64)ns < 0) {
			count(DROPPED_NEGATIVE_TIME);
			return 0;
		}
	} else if (exec) {
		/* By now the number is that of an execve of the new program's kind. */
		nr = SYSCALL_EXEC;
		if (exec_is_known) {
			begin = begun_find_current();
			/* The kernel's own, which is no call. */
			if (!begin)
				return 0;
			nr = begin->nr;
			abi = begin->abi;
			begun_drop_current();
		}
	}
	count_call(nr, abi, exec, failed, ns);
	return 0;
}

SYS_EXIT_HOOK(sys_exit, on_sys_exit)

static __always_inline int on_sys_enter(bool btf, struct pt_regs *regs, long id)
{
	__s32 nr = SYSCALL_RAW_NR(btf, regs);
	struct task_struct *task = current_task();
	struct syscount_begun *begin;

	if (!filter_current_task(task))
		return 0;
	begin = begun_make_current();
	if (!begin)
		return 0;
	begin->abi = abi_of(&nr, SYSCALL_OF_IS_COMPAT(task));
	begin->nr = nr;
	begin->start = bpf_ktime_get_ns();
	return 0;
}

SYS_ENTER_HOOK(sys_enter, on_sys_enter)

/*
 * Before the new program takes the registers over. Not filtered, as the
 * name that --comm asks for may be that which comes.
 */
static __always_inline int on_exec(void)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct syscount_begun *begin;
	__s32 nr = SYSCALL_RAW_NR(false, regs);
	__u32 abi = abi_of(&nr, SYSCALL_IS_COMPAT());

	if (!syscall_is_exec(nr, abi == SYSCOUNT_COMPAT))
		return 0;
	begin = begun_make_current();
	if (begin) {
		begin->abi = abi;
		begin->nr = nr;
	}
	return 0;
}

TRACEPOINT_HOOK(exec, "sched_prepare_exec", on_exec())

/* The calls that do not return end here. */
static __always_inline int on_exit(void)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	__s32 nr = SYSCALL_RAW_NR(false, regs);
	__u32 abi;

	if (!filter_current())
		return 0;
	abi = abi_of(&nr, SYSCALL_IS_COMPAT());
	if (syscall_is_exit(nr, abi == SYSCOUNT_COMPAT))
		count_call(nr, abi, false, false, 0);
	return 0;
}

TRACEPOINT_HOOK(exit, "sched_process_exit", on_exit())

TASK_VALUES_EXIT(begun)

static __always_inline int on_uring_submit(struct io_kiocb *req)
{
	__u64 key = (__u64)req;
	__u64 now = bpf_ktime_get_ns();

	if (!filter_task(false, uring_task(req)))
		return 0;
	if (bpf_map_update_elem(&uring_starts, &key, &now, BPF_ANY))
		count(LOST_MAP_FULL);
	return 0;
}

static __always_inline int on_uring_complete(struct io_kiocb *req, int res)
{
	struct task_struct *task;
	__u64 key = (__u64)req, *start, ns = 0;
	bool failed, is_wanted;

	/* An operation that completes many times: this is not its end. */
	if (!req)
		return 0;
	task = uring_task(req);
	is_wanted = wanted(res, &failed) && filter_task(false, task);
	if (!latency && !is_wanted)
		return 0;
	if (latency) {
		start = bpf_map_lookup_elem(&uring_starts, &key);
		if (!start) {
			if (is_wanted)
				count(DROPPED_UNKNOWN_START);
			return 0;
		}
		ns = bpf_ktime_get_ns() - *start;
		bpf_map_delete_elem(&uring_starts, &key);
		if (!is_wanted)
			return 0;
		if ((__s64)ns < 0) {
			count(DROPPED_NEGATIVE_TIME);
			return 0;
		}
	}
	if (per_process) {
		add(find_process(task, true, false), false, failed, ns);
	} else {
		__u32 op = BPF_CORE_READ(req, opcode);

		add(bpf_map_lookup_elem(&uring_ops, &op), false, failed, ns);
	}
	return 0;
}

TRACEPOINT_HOOK(uring_complete, "io_uring_complete",
		on_uring_complete((struct io_kiocb *)ctx[1], URING_RESULT(ctx)))

TRACEPOINT_HOOK(uring_submit, "io_uring_submit_req", on_uring_submit((struct io_kiocb *)ctx[0]))

/* Its name from 6.0 to 6.2. */
TRACEPOINT_HOOK_AS(uring_submit, _sqe, "io_uring_submit_sqe",
		   on_uring_submit((struct io_kiocb *)ctx[0]))
