// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "cgroup_names.bpf.h"
#include "events.bpf.h"
#include "fd.bpf.h"
#include "filter.bpf.h"
#include "path.bpf.h"
#include "syscall.bpf.h"
#include "uring.bpf.h"
#include "opensnoop.h"

#ifdef __TARGET_ARCH_arm64
#define O_LARGEFILE 0400000
#else
#define O_LARGEFILE 0100000
#endif
/* What creat() stands for: O_CREAT, O_WRONLY and O_TRUNC, which are the same on all architectures.
 */
#define CREAT_FLAGS 01101
#define URING_IN_FLIGHT_MAX 4096
#define RESOLVE_IN_ROOT 0x10

const volatile bool failed_only;
const volatile bool full_path;

struct opensnoop_scratch {
	struct opensnoop_event event;
	__u8 tail[OPENSNOOP_PATH_MAX + PATH_NAMES_MAX + PATH_NAME_SIZE];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct opensnoop_scratch);
} scratch SEC(".maps");

/* Opens whose submission was stored and whose completion is to come. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, URING_IN_FLIGHT_MAX);
	__type(key, __u64);
	__type(value, __u8);
} uring_in_flight SEC(".maps");

EVENT(opensnoop_event);
enum opensnoop_kind *opensnoop_kind_type __attribute__((unused));

static __always_inline enum opensnoop_call open_call(int nr)
{
	bool compat;

	/* Most calls are no opens of either kind: they must be cheap. */
	if (nr != NR_OPENAT && nr != NR_OPEN && nr != NR_CREAT && nr != NR_OPENAT2 &&
	    nr != NR_COMPAT_OPEN && nr != NR_COMPAT_CREAT && nr != NR_COMPAT_OPENAT)
		return OPENSNOOP_NO_OPEN;
	compat = SYSCALL_IS_COMPAT();
	if (nr == (compat ? NR_COMPAT_OPENAT : NR_OPENAT))
		return OPENSNOOP_OPENAT;
	if (nr == (compat ? NR_COMPAT_OPEN : NR_OPEN))
		return OPENSNOOP_OPEN;
	if (nr == (compat ? NR_COMPAT_CREAT : NR_CREAT))
		return OPENSNOOP_CREAT;
	if (nr == (compat ? NR_COMPAT_OPENAT2 : NR_OPENAT2))
		return OPENSNOOP_OPENAT2;
	return OPENSNOOP_NO_OPEN;
}

static __always_inline struct opensnoop_scratch *new_event(enum opensnoop_kind kind)
{
	__u32 zero = 0;
	struct opensnoop_scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	struct task_struct *task = current_task();
	struct opensnoop_event *event;

	if (!s)
		return NULL;
	event = &s->event;
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = kind;
	event->task.time_ns = bpf_ktime_get_boot_ns();
	record_current(&event->task, task);
	if (want_uid) {
		const struct cred *cred = CURRENT_FIELD(task, cred);

		event->fsuid = FIELD(CURRENT_IS_TYPED(), cred, fsuid.val);
	}
	return s;
}

/*
 * The names of the directory that the path starts from, behind the path: of an absolute one, the
 * root, which is the caller's own.
 */
static __always_inline void add_directory(struct opensnoop_scratch *s, __u32 at, int dfd,
					  __u64 resolve)
{
	struct opensnoop_event *event = &s->event;
	const struct path *start;

	event->in_root = !!(resolve & RESOLVE_IN_ROOT);
	start = s->tail[0] == '/' && !event->in_root ? path_root() : path_at(dfd);
	if (!start) {
		event->dir_unknown = 1;
		return;
	}
	if (at > OPENSNOOP_PATH_MAX)
		return;
	event->dir_marks = path_names(s->tail + at, &event->dir_len, &event->dir_below, start);
}

/* The bounds that the verifier has lost sight of hold by what wrote the lengths. */
static __always_inline __u64 size_of(const struct opensnoop_scratch *s)
{
	__u64 tail = (__u64)s->event.path_len + s->event.dir_len;

	return sizeof(s->event) + (tail > sizeof(s->tail) ? sizeof(s->tail) : tail);
}

/* Take len, what a string read returned, as the path's length. */
static __always_inline __u32 set_path(struct opensnoop_event *event, long len)
{
	if (len <= 0 || len > OPENSNOOP_PATH_MAX) {
		event->path_unreadable = 1;
		return 0;
	}
	event->path_len = len - 1;
	return len - 1;
}

static __always_inline int on_sys_exit(bool btf, struct pt_regs *regs, long ret)
{
	struct opensnoop_scratch *s;
	struct opensnoop_event *event;
	struct open_how how = {};
	enum opensnoop_call call;
	int dfd = PATH_AT_FDCWD;
	const char *path;
	bool compat;
	__u32 len;

	call = open_call(SYSCALL_NR(btf, regs));
	if (call == OPENSNOOP_NO_OPEN)
		return 0;
	if (failed_only && ret >= 0)
		return 0;
	if (!filter_current())
		return 0;
	s = new_event(OPENSNOOP_SYSCALL);
	if (!s)
		return 0;
	event = &s->event;
	compat = SYSCALL_IS_COMPAT();
	event->compat = compat;
	event->call = call;
	event->ret = ret;
	if (call == OPENSNOOP_OPEN || call == OPENSNOOP_CREAT) {
		path = (const char *)SYSCALL_ARG1(btf, regs, compat);
		if (call == OPENSNOOP_OPEN) {
			event->flags = (__u32)SYSCALL_ARG2(btf, regs, compat);
			event->mode = SYSCALL_ARG3(btf, regs, compat);
		} else {
			event->flags = CREAT_FLAGS;
			event->mode = SYSCALL_ARG2(btf, regs, compat);
		}
	} else {
		dfd = SYSCALL_ARG1(btf, regs, compat);
		path = (const char *)SYSCALL_ARG2(btf, regs, compat);
		if (call == OPENSNOOP_OPENAT) {
			event->flags = (__u32)SYSCALL_ARG3(btf, regs, compat);
			event->mode = SYSCALL_ARG4(btf, regs, compat);
		} else {
			/* A failed read leaves both 0, as the kernel's own copy would fail. */
			bpf_probe_read_user(&how, sizeof(how),
					    (void *)SYSCALL_ARG3(btf, regs, compat));
			event->flags = how.flags;
			event->mode = how.mode;
		}
	}
	len = set_path(event, read_user_str(s->tail, OPENSNOOP_PATH_MAX, path));
	if (full_path && len)
		add_directory(s, len, dfd, how.resolve);
	events_output(s, size_of(s), event->task.time_ns);
	return 0;
}

SYS_EXIT_HOOK(open, on_sys_exit)

/* 7.0 wrapped the pointer to the name, which is there by then, in a struct. */
struct delayed_filename___7 {
	struct filename *__incomplete_filename;
} __attribute__((preserve_access_index));

struct io_open___7 {
	struct delayed_filename___7 filename;
} __attribute__((preserve_access_index));

static __always_inline const char *uring_path(struct io_open *open)
{
	struct io_open___7 *wrapped = (void *)open;

	if (bpf_core_field_exists(wrapped->filename.__incomplete_filename))
		return BPF_CORE_READ(wrapped, filename.__incomplete_filename, name);
	return BPF_CORE_READ(open, filename, name);
}

static __always_inline int on_uring_submit(struct io_kiocb *req)
{
	struct io_open *open = (void *)req;
	__u8 opcode = BPF_CORE_READ(req, opcode);
	struct opensnoop_scratch *s;
	__u64 key = (__u64)req;
	__u8 one = 1;
	__u32 len;

	if (opcode != IORING_OP_OPENAT && opcode != IORING_OP_OPENAT2)
		return 0;
	NO_PREEMPT();
	if (!filter_current())
		return 0;
	s = new_event(OPENSNOOP_URING_SUBMIT);
	if (!s)
		return 0;
	s->event.req = key;
	s->event.call = opcode == IORING_OP_OPENAT ? OPENSNOOP_OPENAT : OPENSNOOP_OPENAT2;
	/* The kernel adds O_LARGEFILE by itself. */
	s->event.flags = BPF_CORE_READ(open, how.flags) & ~(__u64)O_LARGEFILE;
	s->event.mode = BPF_CORE_READ(open, how.mode);
	s->event.direct = !!BPF_CORE_READ(open, file_slot);
	len = set_path(&s->event,
		       bpf_probe_read_kernel_str(s->tail, OPENSNOOP_PATH_MAX, uring_path(open)));
	if (full_path && len)
		add_directory(s, len, BPF_CORE_READ(open, dfd), BPF_CORE_READ(open, how.resolve));
	/* Stored first: the completion may come on another CPU before this program ends. */
	if (bpf_map_update_elem(&uring_in_flight, &key, &one, BPF_ANY)) {
		count(GENERATED);
		count(LOST_MAP_FULL);
	} else if (events_send(s, size_of(s), s->event.task.time_ns)) {
		bpf_map_delete_elem(&uring_in_flight, &key);
		count(GENERATED);
		count(LOST_RING_FULL);
	}
	return 0;
}

SEC("tp_btf/io_uring_submit_req")
int BPF_PROG(uring_submit__tp_btf, struct io_kiocb *req)
{
	return on_uring_submit(req);
}

/* Its name from 6.0 to 6.2. */
SEC("tp_btf/io_uring_submit_sqe")
int BPF_PROG(uring_submit__tp_btf_sqe, struct io_kiocb *req)
{
	return on_uring_submit(req);
}

SEC("tp_btf/io_uring_complete")
int uring_complete__tp_btf(__u64 *ctx)
{
	__u64 key = ctx[1];
	struct opensnoop_event event = {};

	NO_PREEMPT();
	if (bpf_map_delete_elem(&uring_in_flight, &key))
		return 0;
	event.ret = URING_RESULT(ctx);
	event.kind = OPENSNOOP_URING_COMPLETE;
	event.req = key;
	event.task.time_ns = bpf_ktime_get_boot_ns();
	if (!failed_only || event.ret < 0)
		events_output(&event, sizeof(event), event.task.time_ns);
	else
		/* No event, but user space keeps the submission until it hears of the end. */
		events_send(&event, sizeof(event), event.task.time_ns);
	return 0;
}
