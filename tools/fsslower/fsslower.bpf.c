// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "events.bpf.h"
#include "fd.bpf.h"
#include "filter.bpf.h"
#include "path.bpf.h"
#include "syscall.bpf.h"
#include "task.bpf.h"
#include "fsslower.h"

#define S_IFMT 0170000
#define S_IFDIR 0040000
#define S_IFREG 0100000
#define O_APPEND 02000
/* The operation goes on: its completion is to come. */
#define EIOCBQUEUED 529

const volatile __u64 min_ns;
const volatile bool want_cgroup;
/* Names of file system types, for system calls: none passes all. */
const volatile __u64 types[FSSLOWER_TYPES_MAX][FSSLOWER_TYPE_LEN / 8];
const volatile __u32 types_len;
/* By number: enum fsslower_call, of 64-bit callers below and of 32-bit ones above. */
const volatile __u8 calls[FSSLOWER_CALLS_MAX];

struct start {
	__u64 time_ns; /* 0: there is no such operation under way */
	__u64 object;  /* the kiocb of a read or write, else the file */
	__u64 type;    /* struct file_system_type, of system calls */
	__s64 pos;
};

/* The operations that a task is in: one of a kind. */
struct starts {
	struct start of[FSSLOWER_OPS];
};

TASK_VALUES(starts, struct starts)
TASK_VALUES_EXIT(starts)

struct scratch {
	struct fsslower_event event;
	__u8 names[PATH_NAMES_MAX + PATH_NAME_SIZE];
};

/* One for each operation, as the programs of one may interrupt those of another. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FSSLOWER_OPS);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

struct fsslower_event *fsslower_event_type __attribute__((unused));
enum fsslower_call *fsslower_call_type __attribute__((unused));
enum fsslower_op *fsslower_op_type __attribute__((unused));

static __always_inline void begin(enum fsslower_op op, const struct start *start)
{
	struct starts *starts = starts_make_current();

	if (!starts) {
		/* Nobody knows whether it would have been slow. */
		count(GENERATED);
		return;
	}
	starts->of[op] = *start;
	starts->of[op].time_ns = bpf_ktime_get_boot_ns();
}

/* Take the start of the operation that ends: whether there is one and it took long. */
static __always_inline bool end(enum fsslower_op op, struct start *start, __u64 *now)
{
	struct starts *starts = starts_find_current();

	if (!starts || !starts->of[op].time_ns)
		return false;
	*now = bpf_ktime_get_boot_ns();
	*start = starts->of[op];
	starts->of[op].time_ns = 0;
	if (*now < start->time_ns) {
		count(DROPPED_NEGATIVE_TIME);
		return false;
	}
	return *now - start->time_ns >= min_ns;
}

static __always_inline void report(enum fsslower_op op, const struct start *start, __u64 now,
				   struct file *file, __s64 offset, __s64 ret)
{
	__u32 key = op;
	struct scratch *s = bpf_map_lookup_elem(&scratch, &key);
	struct file_system_type *type = (void *)start->type;
	struct fsslower_event *event;
	struct dentry *dentry;
	__u64 size;

	if (!s)
		return;
	event = &s->event;
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = now;
	event->latency_ns = now - start->time_ns;
	event->offset = offset;
	event->ret = ret;
	event->op = op;
	SET_CURRENT(event);
	if (want_cgroup)
		event->cgroup = bpf_get_current_cgroup_id();
	if (file) {
		type = BPF_CORE_READ(file, f_inode, i_sb, s_type);
		dentry = BPF_CORE_READ(file, f_path.dentry);
		/* Not in its directory's list any more, and no root, which is in none. */
		event->deleted = !BPF_CORE_READ(dentry, d_hash.pprev) &&
				 BPF_CORE_READ(dentry, d_parent) != dentry;
		event->path_incomplete = !path_names(s->names, &event->path_len, &file->f_path);
	} else {
		event->path_unknown = 1;
	}
	bpf_probe_read_kernel_str(event->fs_type, sizeof(event->fs_type),
				  BPF_CORE_READ(type, name));
	size = sizeof(*event) + (__u64)event->path_len;
	events_output(s, size > sizeof(*s) ? sizeof(*s) : size, now);
}

/* Functions of a file system's own. */

static __always_inline int on_function(enum fsslower_op op, const void *object)
{
	struct start start = {.object = (__u64)object};

	if (filter_current())
		begin(op, &start);
	return 0;
}

static __always_inline int on_return(enum fsslower_op op, __s64 ret)
{
	struct kiocb *iocb;
	struct start start;
	struct file *file;
	__s64 offset = -1;
	__u64 now;

	if (!end(op, &start, &now))
		return 0;
	if (op == FSSLOWER_OPEN || op == FSSLOWER_FSYNC) {
		file = (void *)start.object;
	} else if (ret == -EIOCBQUEUED) {
		/* The kiocb may have gone already. */
		count(DROPPED_STILL_RUNNING);
		return 0;
	} else {
		iocb = (void *)start.object;
		file = BPF_CORE_READ(iocb, ki_filp);
		/* The operation moved it by what it did. */
		offset = BPF_CORE_READ(iocb, ki_pos) - (ret > 0 ? ret : 0);
	}
	report(op, &start, now, file, offset, ret);
	return 0;
}

/* The hook of an operation, by pairs of programs: on `object`, one of the arguments. */
#define OPERATION_HOOK(hook, op, object, result, ...)                                              \
	SEC("fentry")                                                                              \
	int BPF_PROG(hook##__fentry, __VA_ARGS__)                                                  \
	{                                                                                          \
		return on_function(op, object);                                                    \
	}                                                                                          \
	SEC("fexit")                                                                               \
	int BPF_PROG(hook##__fexit, __VA_ARGS__, result ret)                                       \
	{                                                                                          \
		return on_return(op, ret);                                                         \
	}                                                                                          \
	SEC("kprobe")                                                                              \
	int BPF_KPROBE(hook##__kprobe, __VA_ARGS__)                                                \
	{                                                                                          \
		return on_function(op, object);                                                    \
	}                                                                                          \
	SEC("kretprobe")                                                                           \
	int BPF_KRETPROBE(hook##__kretprobe, result ret)                                           \
	{                                                                                          \
		return on_return(op, ret);                                                         \
	}

OPERATION_HOOK(read, FSSLOWER_READ, iocb, ssize_t, struct kiocb *iocb, struct iov_iter *iter)
OPERATION_HOOK(write, FSSLOWER_WRITE, iocb, ssize_t, struct kiocb *iocb, struct iov_iter *iter)
OPERATION_HOOK(open, FSSLOWER_OPEN, file, int, struct inode *inode, struct file *file)
OPERATION_HOOK(fsync, FSSLOWER_FSYNC, file, int, struct file *file, loff_t start, loff_t end,
	       int datasync)

/* System calls, of files of some types. */

static __always_inline enum fsslower_call call_of(__u64 nr, bool *compat)
{
	__u8 both;

	*compat = false;
	if (nr >= FSSLOWER_CALLS_MAX)
		return FSSLOWER_NO_CALL;
	both = calls[nr];
	/* Most calls are of no interest to either kind of caller: they must be cheap. */
	if (!both)
		return FSSLOWER_NO_CALL;
	*compat = SYSCALL_IS_COMPAT();
	return *compat ? both >> 4 : both & 15;
}

static __always_inline enum fsslower_op op_of(enum fsslower_call call)
{
	switch (call) {
	case FSSLOWER_CALL_READ:
	case FSSLOWER_CALL_PREAD:
	case FSSLOWER_CALL_PREADV2:
		return FSSLOWER_READ;
	case FSSLOWER_CALL_OPEN:
		return FSSLOWER_OPEN;
	case FSSLOWER_CALL_FSYNC:
		return FSSLOWER_FSYNC;
	default:
		return FSSLOWER_WRITE;
	}
}

/* Whether this is a file or directory of a type that is asked for; which type it is of. */
static __always_inline bool is_wanted(struct file *file, __u64 *type)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	__u16 kind = BPF_CORE_READ(inode, i_mode) & S_IFMT;
	__u64 name[FSSLOWER_TYPE_LEN / 8] = {};
	struct file_system_type *found;

	if (kind != S_IFREG && kind != S_IFDIR)
		return false;
	found = BPF_CORE_READ(inode, i_sb, s_type);
	*type = (__u64)found;
	if (!types_len)
		return true;
	bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(found, name));
	for (int i = 0; i < FSSLOWER_TYPES_MAX && i < types_len; i++)
		if (name[0] == types[i][0] && name[1] == types[i][1])
			return true;
	return false;
}

static __always_inline int on_sys_enter(bool btf, struct pt_regs *regs, __u64 nr)
{
	struct start start = {};
	enum fsslower_call call;
	struct file *file;
	bool compat;

	call = call_of(nr, &compat);
	if (call == FSSLOWER_NO_CALL || !filter_current())
		return 0;
	if (call != FSSLOWER_CALL_OPEN) {
		file = fd_file(SYSCALL_ARG1(btf, regs, compat));
		if (!file || !is_wanted(file, &start.type))
			return 0;
		start.object = (__u64)file;
		start.pos = BPF_CORE_READ(file, f_pos);
	}
	begin(op_of(call), &start);
	return 0;
}

/* Where a read or write began: where the call says so, else where the file stood. */
static __always_inline __s64 offset_of(enum fsslower_call call, __s64 arg, bool compat,
				       struct file *file, const struct start *start, __s64 ret)
{
	bool positional = call != FSSLOWER_CALL_READ && call != FSSLOWER_CALL_WRITE;
	bool may_be = call == FSSLOWER_CALL_PREADV2 || call == FSSLOWER_CALL_PWRITEV2;
	__s64 pos;

	/* In two halves, whose order depends on the architecture. */
	if (positional && compat)
		return -1;
	if (positional && !(may_be && arg == -1))
		return arg;
	if (ret <= 0)
		return start->pos;
	if (!file)
		return -1;
	pos = BPF_CORE_READ(file, f_pos) - ret;
	/* Others who share the file's position may have moved it. */
	if (pos == start->pos || BPF_CORE_READ(file, f_flags) & O_APPEND)
		return pos;
	return -1;
}

static __always_inline int on_sys_exit(bool btf, struct pt_regs *regs, __s64 ret)
{
	enum fsslower_call call;
	enum fsslower_op op;
	struct start start;
	struct file *file;
	__s64 offset = -1;
	bool compat;
	__u64 now;

	call = call_of((__u32)SYSCALL_NR(btf, regs), &compat);
	if (call == FSSLOWER_NO_CALL)
		return 0;
	op = op_of(call);
	if (!end(op, &start, &now))
		return 0;
	if (op == FSSLOWER_OPEN) {
		/* One that failed has no file, and no file system. */
		if (ret < 0)
			return 0;
		file = fd_file(ret);
		ret = 0;
		if (!file || !is_wanted(file, &start.type))
			return 0;
	} else {
		file = fd_file(SYSCALL_ARG1(btf, regs, compat));
		/* Closed meanwhile, by another thread: what it was can't be read any more. */
		if (file != (void *)start.object)
			file = NULL;
	}
	if (op == FSSLOWER_READ || op == FSSLOWER_WRITE)
		offset =
			offset_of(call, SYSCALL_ARG4(btf, regs, compat), compat, file, &start, ret);
	report(op, &start, now, file, offset, ret);
	return 0;
}

SYS_ENTER_HOOK(syscall_enter, on_sys_enter)

SYS_EXIT_HOOK(syscall_exit, on_sys_exit)
