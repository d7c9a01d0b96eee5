// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "cgroup_names.bpf.h"
#include "events.bpf.h"
#include "filter.bpf.h"
#include "path.bpf.h"
#include "syscall.bpf.h"
#include "execsnoop.h"

/* Of a failed exec, whose arguments must be read one by one: a turn for each 4095 bytes of one. */
#define FAILED_TURNS 256
#define FAILED_READ 4096
#define ENOENT 2

struct execsnoop_scratch {
	struct execsnoop_event event;
	/* Directly behind the event, as in the record. */
	__u8 tail[EXECSNOOP_NAME_MAX + EXECSNOOP_PART];
	/* Of a failed exec: how far its arguments are read. */
	volatile __u64 arg;  /* the rest of the present argument, or 0 */
	volatile __u32 next; /* in argv */
	volatile __u16 filled;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct execsnoop_scratch);
} scratch SEC(".maps");

EVENT(execsnoop_event);
enum execsnoop_kind *execsnoop_kind_type __attribute__((unused));

static __always_inline struct execsnoop_scratch *new_event(void)
{
	__u32 zero = 0;
	struct execsnoop_scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	struct task_struct *task = current_task();

	if (!s)
		return NULL;
	__builtin_memset(&s->event, 0, sizeof(s->event));
	s->event.task.time_ns = bpf_ktime_get_boot_ns();
	record_current(&s->event.task, task);
	if (want_uid) {
		const struct cred *cred = CURRENT_FIELD(task, cred);

		s->event.euid = FIELD(CURRENT_IS_TYPED(), cred, euid.val);
	}
	return s;
}

/* Send len bytes of arguments at the tail's beginning ahead of their exec. */
static __always_inline void send_part(struct execsnoop_scratch *s, __u32 len)
{
	s->event.kind = EXECSNOOP_ARGS;
	s->event.args_len = len;
	/* A part that finds no room leaves a gap, which user space reports as a cut. */
	events_send(s, sizeof(s->event) + len, s->event.task.time_ns);
	s->event.args_offset += len;
}

/* Send the exec itself: its file name and what follows it are in the tail. */
static __always_inline void send_exec(struct execsnoop_scratch *s, __u32 name_len, __u32 args_len)
{
	__u64 size = (__u64)name_len + s->event.dir_len + args_len;

	s->event.kind = EXECSNOOP_EXEC;
	s->event.name_len = name_len;
	s->event.args_len = args_len;
	if (size > sizeof(s->tail))
		size = sizeof(s->tail);
	/* From the tail's first byte: what lies between is no part of the record. */
	events_output(s, sizeof(s->event) + size, s->event.task.time_ns);
}

static __always_inline int on_exec(bool btf, struct task_struct *task, const char *filename)
{
	struct execsnoop_scratch *s;
	struct mm_struct *mm;
	__u64 start, size;
	long name_len, err;

	NO_PREEMPT();
	if (!filter_current())
		return 0;
	s = new_event();
	if (!s)
		return 0;
	s->event.ppid = task_pids(btf, FIELD(btf, task, real_parent)) >> 32;
	s->event.compat = !!SYSCALL_IS_COMPAT();
	mm = FIELD(btf, task, mm);
	start = FIELD(btf, mm, arg_start);
	size = FIELD(btf, mm, arg_end) - start;

	for (int i = 0; i < EXECSNOOP_PARTS - 1 && size > EXECSNOOP_PART; i++) {
		if (bpf_probe_read_user(s->tail, EXECSNOOP_PART, (void *)start)) {
			s->event.args_unreadable = 1;
			size = 0;
			break;
		}
		send_part(s, EXECSNOOP_PART);
		start += EXECSNOOP_PART;
		size -= EXECSNOOP_PART;
	}
	if (size > EXECSNOOP_PART) {
		s->event.args_cut = 1;
		size = EXECSNOOP_PART;
	}
	name_len = bpf_probe_read_kernel_str(s->tail, EXECSNOOP_NAME_MAX, filename);
	if (name_len <= 0 || name_len > EXECSNOOP_NAME_MAX) {
		s->event.name_unreadable = 1;
		name_len = 0;
	}
	/* Known already, but the verifier must see it here. */
	barrier_var(size);
	if (size > EXECSNOOP_PART)
		return 0;
	err = bpf_probe_read_user(s->tail + name_len, size, (void *)start);
	if (err) {
		s->event.args_unreadable = 1;
		size = 0;
	}
	send_exec(s, name_len, size);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(exec__tp_btf, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	return on_exec(true, task, bprm->filename);
}

SEC("raw_tp/sched_process_exec")
int BPF_PROG(exec__raw_tp, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	return on_exec(false, task, BPF_CORE_READ(bprm, filename));
}

SEC("tp/sched/sched_process_exec")
int exec__tp(struct trace_event_raw_sched_process_exec *ctx)
{
	/* The low half is where the name lies in the record. */
	const char *filename = (const char *)ctx + (ctx->__data_loc_filename & 0xffff);

	return on_exec(false, (struct task_struct *)bpf_get_current_task(), filename);
}

/* send_part(), at which the verifier looks once, as a global function. */
__noinline int send_filled(__u32 len)
{
	__u32 zero = 0;
	struct execsnoop_scratch *s = bpf_map_lookup_elem(&scratch, &zero);

	if (!s)
		return 0;
	send_part(s, len > EXECSNOOP_PART ? EXECSNOOP_PART : len);
	s->filled = 0;
	return 0;
}

/* The argument at argv[i], or 0 at the end of the list. */
static __always_inline long read_pointer(__u64 argv, __u32 i, bool compat, __u64 *pointer)
{
	*pointer = 0;
	if (compat)
		return bpf_probe_read_user(pointer, 4, (void *)(argv + 4 * i));
	return bpf_probe_read_user(pointer, 8, (void *)(argv + 8 * i));
}

/*
 * Read on in the arguments of a failed exec: a whole one, or as much of it as a turn reads. Returns
 * whether there may be more. As a global function, the verifier looks at it once and not at each
 * turn.
 */
__noinline int read_argument(__u64 argv, int compat)
{
	__u32 zero = 0, filled;
	struct execsnoop_scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	__u64 arg = 0;
	long len;

	if (!s)
		return 0;
	if (!s->arg) {
		if (read_pointer(argv, s->next, compat, &arg)) {
			s->event.args_unreadable = 1;
			return 0;
		}
		if (!arg) {
			s->event.args_cut = 0;
			return 0;
		}
		s->arg = arg;
		s->next++;
	}
	filled = s->filled;
	if (filled > EXECSNOOP_PART - FAILED_READ) {
		if (s->event.args_offset > EXECSNOOP_PART * (EXECSNOOP_PARTS - 2))
			return 0;
		send_filled(filled);
		filled = 0;
	}
	len = read_user_str(s->tail + filled, FAILED_READ, (void *)s->arg);
	if (len <= 0 || len > FAILED_READ) {
		s->event.args_unreadable = 1;
		return 0;
	}
	if (len == FAILED_READ) {
		/* More of it may follow: the NUL is the helper's own. */
		s->arg += FAILED_READ - 1;
		s->filled = filled + FAILED_READ - 1;
	} else {
		s->arg = 0;
		s->filled = filled + len;
	}
	return 1;
}

/*
 * For user space, which looks for what is missing: the working directory, or that which a relative
 * name starts from, and the mount that the root is in. The name is the tail's first name_len bytes.
 * As a global function, the verifier looks at it once and not on each way to it.
 */
__noinline int add_directory(__u32 name_len, int at, int dfd)
{
	__u32 zero = 0;
	struct execsnoop_scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	struct execsnoop_event *event;
	const struct path *start;
	struct vfsmount *root;

	if (!s)
		return 0;
	event = &s->event;
	event->dir_is_cwd = !at || s->tail[0] == '/' || dfd == PATH_AT_FDCWD;
	start = path_at(event->dir_is_cwd ? PATH_AT_FDCWD : dfd);
	root = BPF_CORE_READ(path_root(), mnt);
	event->root_mnt_id = BPF_CORE_READ(container_of(root, struct mount, mnt), mnt_id);
	event->dir_marks = PATH_CUT;
	/* The verifier must see the bound where it is used. */
	barrier_var(name_len);
	if (start && name_len <= EXECSNOOP_NAME_MAX)
		event->dir_marks =
			path_names(s->tail + name_len, &event->dir_len, &event->dir_below, start);
	return 0;
}

static __always_inline int on_sys_exit(bool btf, struct pt_regs *regs, long ret)
{
	int nr = SYSCALL_NR(btf, regs);
	struct task_struct *task;
	struct execsnoop_scratch *s;
	__u64 name, argv;
	bool compat, at;
	__u32 filled;
	long len;

	if (ret >= 0)
		return 0;
	if (nr != NR_EXECVE && nr != NR_EXECVEAT && nr != NR_COMPAT_EXECVE &&
	    nr != NR_COMPAT_EXECVEAT)
		return 0;
	compat = SYSCALL_IS_COMPAT();
	at = nr == (compat ? NR_COMPAT_EXECVEAT : NR_EXECVEAT);
	if (!at && nr != (compat ? NR_COMPAT_EXECVE : NR_EXECVE))
		return 0;
	if (!filter_current())
		return 0;
	s = new_event();
	if (!s)
		return 0;
	task = (struct task_struct *)bpf_get_current_task();
	s->event.ppid = task_pids(false, BPF_CORE_READ(task, real_parent)) >> 32;
	s->event.ret = ret;
	s->event.compat = compat;
	name = at ? SYSCALL_ARG2(btf, regs, compat) : SYSCALL_ARG1(btf, regs, compat);
	argv = at ? SYSCALL_ARG3(btf, regs, compat) : SYSCALL_ARG2(btf, regs, compat);

	s->arg = 0;
	s->next = 0;
	s->filled = 0;
	s->event.args_cut = !!argv;
	for (int i = 0; argv && i < FAILED_TURNS; i++) {
		if (!read_argument(argv, compat))
			break;
	}
	/* The name comes first in the record, but its length is not known before it is read. */
	filled = s->filled;
	if (filled)
		send_filled(filled);
	len = read_user_str(s->tail, EXECSNOOP_NAME_MAX, (void *)name);
	if (len <= 0 || len > EXECSNOOP_NAME_MAX) {
		s->event.name_unreadable = 1;
		len = 0;
	}
	if (ret == -ENOENT && len > 1)
		add_directory(len, at, SYSCALL_ARG1(btf, regs, compat));
	send_exec(s, len, 0);
	return 0;
}

SYS_EXIT_HOOK(failed_exec, on_sys_exit)
