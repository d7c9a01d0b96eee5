// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "cgroup_names.bpf.h"
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
#define O_NONBLOCK 04000
#define RWF_APPEND 0x10
/* The operation goes on: its completion is to come. */
#define EIOCBQUEUED 529

const volatile __u64 min_ns;
/* Names of file system types, for system calls: none passes all. */
const volatile __u64 types[FSSLOWER_TYPES_MAX][FSSLOWER_TYPE_LEN / 8];
const volatile __u32 types_len;
/* By number: FSSLOWER_CALL() of 64-bit callers below, of 32-bit ones above. */
const volatile __u16 calls[FSSLOWER_CALLS_MAX];
__u64 ended_ns; /* when the tool ended */

struct start {
	__u64 time_ns; /* 0: there is no such operation under way */
	__u64 object;  /* the kiocb of a read or write by function, else the file; 0: a path */
	__u64 type;    /* struct file_system_type, of system calls */
	__s64 pos;
	__s16 nr; /* of the system call; -1: a function */
	__u8 compat;
	__u8 op;
};

/* The operations that a task is in: the first one is a system call's. */
struct starts {
	struct start of[FSSLOWER_NESTED];
};

TASK_VALUES(starts, struct starts)
TASK_VALUES_EXIT(starts)

#define NAMES_SIZE (PATH_NAMES_MAX + PATH_NAME_SIZE)
#define STRING_SIZE 4096

struct scratch {
	struct fsslower_event event;
	__u8 names[NAMES_SIZE + STRING_SIZE];
	__u16 below;
};

/* One for each operation, as the programs of one may interrupt those of another. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FSSLOWER_OPS);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

EVENT(fsslower_event);
enum fsslower_form *fsslower_form_type __attribute__((unused));
enum fsslower_op *fsslower_op_type __attribute__((unused));

static __always_inline void begin(__u32 slot, const struct start *start)
{
	struct starts *starts = starts_make_current();

	if (!starts) {
		/* Nobody knows whether it would have been slow. */
		count(GENERATED);
		return;
	}
	starts->of[slot] = *start;
	starts->of[slot].time_ns = bpf_ktime_get_boot_ns();
}

/* Take the start of the operation that ends: whether there is one and it took long. */
static __always_inline bool end(__u32 slot, struct start *start, __u64 *now)
{
	struct starts *starts = starts_find_current();

	if (!starts || !starts->of[slot].time_ns)
		return false;
	*now = bpf_ktime_get_boot_ns();
	*start = starts->of[slot];
	starts->of[slot].time_ns = 0;
	if (*now < start->time_ns) {
		count(DROPPED_NEGATIVE_TIME);
		return false;
	}
	return *now - start->time_ns >= min_ns;
}

/* The event of an operation, to be completed, and sent by output(). */
static __always_inline struct scratch *event_of(const struct start *start, __u64 now)
{
	__u32 key = start->op;
	struct scratch *s = bpf_map_lookup_elem(&scratch, &key);
	struct file_system_type *type = (void *)start->type;
	struct fsslower_event *event;

	if (!s) {
		/* There is one for each. */
		count(GENERATED);
		count(LOST_MAP_FULL);
		return NULL;
	}
	event = &s->event;
	__builtin_memset(event, 0, sizeof(*event));
	event->task.time_ns = now;
	event->latency_ns = now - start->time_ns;
	event->offset = -1;
	event->nr = start->nr;
	event->compat = start->compat;
	event->op = start->op;
	if (type)
		bpf_probe_read_kernel_str(event->fs_type, sizeof(event->fs_type),
					  BPF_CORE_READ(type, name));
	return s;
}

static __always_inline void set_path(struct scratch *s, const struct path *path)
{
	struct dentry *dentry = BPF_CORE_READ(path, dentry);
	struct fsslower_event *event = &s->event;

	event->deleted = path_is_deleted(dentry);
	event->path_marks =
		path_names(s->names, &event->path_len, &s->below, path) >> PATH_ALL_SHIFT;
}

static __always_inline void set_file(struct scratch *s, struct file *file)
{
	if (!file) {
		s->event.path_unknown = 1;
		return;
	}
	bpf_probe_read_kernel_str(s->event.fs_type, sizeof(s->event.fs_type),
				  BPF_CORE_READ(file, f_inode, i_sb, s_type, name));
	set_path(s, &file->f_path);
}

static __always_inline void output(struct scratch *s)
{
	__u64 size = sizeof(s->event) + (__u64)s->event.path_len + s->event.string_len;

	events_output(s, size > sizeof(*s) ? sizeof(*s) : size, s->event.task.time_ns);
}

static __always_inline void output_current(struct scratch *s, __s64 ret)
{
	s->event.ret = ret;
	record_current(&s->event.task, current_task());
	output(s);
}

/* Functions of a file system's own. */

static __always_inline int on_function(enum fsslower_op op, const void *object)
{
	struct start start = {.object = (__u64)object, .nr = -1, .op = op};

	if (filter_current())
		begin(op, &start);
	return 0;
}

static __always_inline int on_return(enum fsslower_op op, __s64 ret)
{
	struct kiocb *iocb;
	struct start start;
	struct scratch *s;
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
	s = event_of(&start, now);
	if (!s)
		return 0;
	s->event.offset = offset;
	set_file(s, file);
	output_current(s, ret);
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

/* What a call is: 0, or FSSLOWER_CALL(). */
static __always_inline __u8 call_of(__u64 nr, bool *compat)
{
	__u16 both;

	*compat = false;
	if (nr >= FSSLOWER_CALLS_MAX)
		return 0;
	/* The verifier of older kernels must see the bound where it counts. */
	barrier_var(nr);
	both = calls[nr & (FSSLOWER_CALLS_MAX - 1)];
	/* Most calls are of no interest to either kind of caller: they must be cheap. */
	if (!both)
		return 0;
	*compat = SYSCALL_IS_COMPAT();
	return *compat ? both >> 8 : (__u8)both;
}

#define CALL_OP(call) (((call)&15) - 1)
#define CALL_FORM(call) ((call) >> 4)

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

/* Whether data waits for the disk or for the file system, and not for a slow reader or writer. */
static __always_inline bool is_patient(struct file *file)
{
	__u16 kind = BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT;

	return kind == S_IFREG || BPF_CORE_READ(file, f_flags) & O_NONBLOCK;
}

/* Of two, that which is wanted, the source first; the other one must not wait for anybody. */
static __always_inline struct file *one_of(struct file *from, struct file *to, __u64 *type)
{
	if (!from || !to)
		return NULL;
	if (is_wanted(from, type))
		return is_patient(to) ? from : NULL;
	return is_wanted(to, type) && is_patient(from) ? to : NULL;
}

/* The file that a call is about, by its descriptors, if it is wanted. */
static __always_inline struct file *file_of(__u8 form, bool btf, struct pt_regs *regs, bool compat,
					    __u64 *type)
{
	struct file *file = fd_file(SYSCALL_ARG1(btf, regs, compat));

	if (form == FSSLOWER_FROM_TO)
		return one_of(file, fd_file(SYSCALL_ARG3(btf, regs, compat)), type);
	if (form == FSSLOWER_TO_FROM)
		return one_of(fd_file(SYSCALL_ARG2(btf, regs, compat)), file, type);
	return file && is_wanted(file, type) ? file : NULL;
}

static __always_inline __u64 path_arg(__u8 form, bool btf, struct pt_regs *regs, bool compat)
{
	if (form == FSSLOWER_PATH)
		return SYSCALL_ARG1(btf, regs, compat);
	if (form == FSSLOWER_DIR_PATH2)
		return SYSCALL_ARG3(btf, regs, compat);
	return SYSCALL_ARG2(btf, regs, compat);
}

/* PATH_AT_FDCWD where the call has no folder. */
static __always_inline int dir_arg(__u8 form, bool btf, struct pt_regs *regs, bool compat)
{
	if (form == FSSLOWER_DIR_PATH)
		return SYSCALL_ARG1(btf, regs, compat);
	if (form == FSSLOWER_DIR_PATH2)
		return SYSCALL_ARG2(btf, regs, compat);
	return PATH_AT_FDCWD;
}

/* Whether the path is that of the descriptor itself, as fstat() is stat of an empty path. */
static __always_inline bool is_of_descriptor(__u8 form, bool btf, struct pt_regs *regs, bool compat)
{
	const void *path = (const void *)path_arg(form, btf, regs, compat);
	__u8 first = 1;

	if (form != FSSLOWER_DIR_PATH || dir_arg(form, btf, regs, compat) < 0)
		return false;
	return !path || (!bpf_probe_read_user(&first, sizeof(first), path) && !first);
}

static __always_inline int on_sys_enter(bool btf, struct pt_regs *regs, __u64 nr)
{
	struct start start = {};
	struct file *file;
	__u8 call, form;
	bool compat;

	call = call_of(nr, &compat);
	if (!call || !filter_current())
		return 0;
	form = CALL_FORM(call);
	start.op = CALL_OP(call);
	start.nr = nr;
	start.compat = compat;
	if (form < FSSLOWER_PATH || is_of_descriptor(form, btf, regs, compat)) {
		file = file_of(form, btf, regs, compat, &start.type);
		if (!file)
			return 0;
		start.object = (__u64)file;
		start.pos = BPF_CORE_READ(file, f_pos);
	} else if (types_len && start.op != FSSLOWER_OPEN) {
		/* Where a path leads to is not known. */
		return 0;
	}
	begin(0, &start);
	return 0;
}

/* Where a read or write began: where the call says so, else where the file stood. */
static __always_inline __s64 offset_of(__u8 call, bool btf, struct pt_regs *regs, bool compat,
				       struct file *file, const struct start *start, __s64 ret)
{
	bool positional = CALL_FORM(call) != FSSLOWER_FD;
	bool may_be = CALL_FORM(call) == FSSLOWER_FD_AT_OR_POS;
	__s64 arg = SYSCALL_ARG4(btf, regs, compat), pos;
	bool appends = false;

	if (CALL_OP(call) == FSSLOWER_WRITE) {
		/* It is written at the end, whatever the call says. */
		if (!file)
			return -1;
		appends = BPF_CORE_READ(file, f_flags) & O_APPEND ||
			  (may_be && SYSCALL_ARG6(btf, regs, compat) & RWF_APPEND);
	}
	/* In two halves, whose order depends on the architecture. */
	if (positional && compat)
		return -1;
	if (positional && !(may_be && arg == -1))
		return appends ? -1 : arg;
	if (ret <= 0)
		return appends ? -1 : start->pos;
	if (!file)
		return -1;
	pos = BPF_CORE_READ(file, f_pos) - ret;
	/* Others who share the file's position may have moved it. */
	if (pos == start->pos || appends)
		return pos;
	return -1;
}

/* A path as it was given, behind the names of where it leads on from. */
static __always_inline void set_given(struct scratch *s, const void *string, bool is_users)
{
	__u32 used = s->event.path_len;
	__s64 len = -1;

	if (used <= NAMES_SIZE)
		len = is_users ? bpf_probe_read_user_str(s->names + used, STRING_SIZE, string)
			       : bpf_probe_read_kernel_str(s->names + used, STRING_SIZE, string);
	if (len < 0)
		s->event.path_unknown = 1;
	else if (len > 1)
		s->event.string_len = len - 1;
}

/* The path that the caller gave, and from where it leads on if it is relative. */
static __always_inline void set_string(struct scratch *s, __u8 form, bool btf, struct pt_regs *regs,
				       bool compat)
{
	const void *string = (const void *)path_arg(form, btf, regs, compat);
	const struct path *from;
	__u8 first = 0;

	if (bpf_probe_read_user(&first, sizeof(first), string))
		goto unknown;
	if (first != '/') {
		from = path_at(dir_arg(form, btf, regs, compat));
		if (!from)
			goto unknown;
		set_path(s, from);
		/* That is of the folder. */
		s->event.deleted = 0;
	}
	set_given(s, string, true);
	return;
unknown:
	s->event.path_unknown = 1;
}

static __always_inline int on_sys_exit(bool btf, struct pt_regs *regs, __s64 ret)
{
	__u32 nr = SYSCALL_NR(btf, regs);
	struct start start;
	struct scratch *s;
	struct file *file;
	__u64 now, type;
	__u8 call, form;
	bool compat;

	call = call_of(nr, &compat);
	if (!call || !end(0, &start, &now) || start.nr != (__s16)nr)
		return 0;
	form = CALL_FORM(call);
	if (start.op == FSSLOWER_OPEN && ret >= 0) {
		file = fd_file(ret);
		ret = 0;
		if (!file || !is_wanted(file, &start.type))
			return 0;
	} else if (start.object) {
		file = file_of(form < FSSLOWER_PATH ? form : FSSLOWER_FD, btf, regs, compat, &type);
		/* Closed meanwhile, by another thread: what it was can't be read any more. */
		if (file != (void *)start.object)
			file = NULL;
	} else if (types_len) {
		/* An open that failed has no file, and no file system. */
		return 0;
	} else {
		file = NULL;
	}
	s = event_of(&start, now);
	if (!s)
		return 0;
	if (start.op == FSSLOWER_READ || start.op == FSSLOWER_WRITE)
		s->event.offset = offset_of(call, btf, regs, compat, file, &start, ret);
	if (file || start.object)
		set_file(s, file);
	else
		set_string(s, form, btf, regs, compat);
	output_current(s, ret);
	return 0;
}

SYS_ENTER_HOOK(syscall_enter, on_sys_enter)

SYS_EXIT_HOOK(syscall_exit, on_sys_exit)

/* The path that a task is looking up; once it is found, the kernel keeps it no longer. */
static __always_inline void set_looked_up(struct scratch *s, struct task_struct *task)
{
	struct nameidata *lookup = BPF_CORE_READ(task, nameidata);
	struct fs_struct *fs = BPF_CORE_READ(task, fs);
	const char *string = BPF_CORE_READ(lookup, name, name);
	char first = 0;

	if (!lookup || !fs || bpf_probe_read_kernel(&first, sizeof(first), string))
		goto unknown;
	if (first != '/') {
		if (BPF_CORE_READ(lookup, dfd) != PATH_AT_FDCWD)
			goto unknown;
		set_path(s, __builtin_preserve_access_index(&fs->pwd));
		s->event.deleted = 0;
	}
	set_given(s, string, false);
	return;
unknown:
	s->event.path_unknown = 1;
}

/* At the end, for the operations that go on. */
SEC("iter/task")
int flush(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct fsslower_event *event;
	struct starts *starts;
	struct start *start;
	struct scratch *s;
	struct kiocb *iocb;
	struct file *file;

	if (!task)
		return 0;
	starts = starts_find(true, task);
	if (!starts)
		return 0;
	for (__u32 slot = 0; slot < FSSLOWER_NESTED; slot++) {
		start = &starts->of[slot];
		if (!start->time_ns || ended_ns < start->time_ns ||
		    ended_ns - start->time_ns < min_ns)
			continue;
		s = event_of(start, ended_ns);
		if (!s)
			return 0;
		event = &s->event;
		event->unfinished = 1;
		record_task(&event->task, true, task);
		if (!start->object) {
			set_looked_up(s, task);
			output(s);
			continue;
		}
		file = (void *)start->object;
		iocb = (void *)start->object;
		if (start->nr < 0 && (start->op == FSSLOWER_READ || start->op == FSSLOWER_WRITE))
			file = BPF_CORE_READ(iocb, ki_filp);
		set_file(s, file);
		output(s);
	}
	return 0;
}
