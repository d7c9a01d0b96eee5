// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "cgroup_names.bpf.h"
#include "events.bpf.h"
#include "filter.bpf.h"
#include "uprobe.bpf.h"
#include "gethostlatency.h"

/* Threads that are in a call at once. */
#define THREADS_MAX 2048
/* Calls of one thread within each other: of musl, gethostbyname() is three. A power of two. */
#define DEPTH_MAX 4
#define AF_INET 2
#define AF_INET6 10
/* Where the address is in sockaddr_in and in sockaddr_in6. */
#define IN_ADDRESS 4
#define IN6_ADDRESS 8

const volatile bool failed_only;

/* A call that a thread is in. */
struct frame {
	__u64 sp;
	/* Or where an address is. */
	__u64 name;
	/* Where the _r functions leave their results. */
	__u64 result;
	__u64 h_errno;
	/* An outer call's way to do its work, and no event of its own. */
	__u64 inner;
	__u64 start_ns;
	struct gethostlatency_event event;
	/* Directly behind the event, as in the record. */
	__u8 host[GETHOSTLATENCY_HOST_SIZE];
};

struct thread {
	__u64 depth;
	struct frame frames[DEPTH_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, THREADS_MAX);
	__type(key, __u64);
	__type(value, struct thread);
} threads SEC(".maps");

/* Too large for the stack. */
struct thread no_calls;

EVENT(gethostlatency_event);
enum gethostlatency_call *gethostlatency_call_type __attribute__((unused));

static __always_inline struct frame *frame_at(struct thread *thread, __u64 i)
{
	return &thread->frames[i & (DEPTH_MAX - 1)];
}

/* Whether one function of a library may do its work by calling the other. */
static __always_inline bool delegates(const struct frame *outer, enum gethostlatency_call call)
{
	switch (outer->event.call) {
	case GETHOSTLATENCY_GETHOSTBYNAME:
	case GETHOSTLATENCY_GETHOSTBYNAME2:
	case GETHOSTLATENCY_GETHOSTBYNAME_R:
		return outer->event.call < call && call <= GETHOSTLATENCY_GETHOSTBYNAME2_R;
	case GETHOSTLATENCY_GETHOSTBYADDR:
		return call == GETHOSTLATENCY_GETHOSTBYADDR_R || call == GETHOSTLATENCY_GETNAMEINFO;
	case GETHOSTLATENCY_GETHOSTBYADDR_R:
		return call == GETHOSTLATENCY_GETNAMEINFO;
	case GETHOSTLATENCY_GETNAMEINFO:
		return call == GETHOSTLATENCY_GETHOSTBYADDR ||
		       call == GETHOSTLATENCY_GETHOSTBYADDR_R;
	case GETHOSTLATENCY_RES_QUERY:
	case GETHOSTLATENCY_RES_SEARCH:
	case GETHOSTLATENCY_RES_NQUERY:
	case GETHOSTLATENCY_RES_NSEARCH:
		return call >= GETHOSTLATENCY_RES_QUERY;
	}
	return false;
}

/* Whether the call within another one, at this name, is that one's way to do its work. */
static __always_inline bool is_inner(const struct frame *outer, enum gethostlatency_call call,
				     __u64 name, __u64 sp)
{
	if (!delegates(outer, call))
		return false;
	/* The address is part of the outer call's. */
	if (outer->event.call == GETHOSTLATENCY_GETNAMEINFO)
		return name - outer->name <= IN6_ADDRESS;
	/* musl makes one of its own, on the stack. */
	if (call == GETHOSTLATENCY_GETNAMEINFO)
		return name > sp && name < outer->sp;
	return name == outer->name;
}

/* Forget the innermost call, which did not return and will not: it was left by a jump. */
static __always_inline void give_up(const struct frame *frame)
{
	if (!frame->inner)
		count(DROPPED_UNFINISHED);
}

/* The name, with its NUL, or the address, and one more: how much that is. 0 if it can't be read. */
static __always_inline long read_host(struct frame *frame)
{
	__u16 family = frame->event.family;
	__u64 from = frame->name;

	switch (frame->event.call) {
	case GETHOSTLATENCY_GETNAMEINFO:
		if (bpf_probe_read_user(&family, sizeof(family), (void *)from))
			return 0;
		from += family == AF_INET ? IN_ADDRESS : IN6_ADDRESS;
		break;
	case GETHOSTLATENCY_GETHOSTBYADDR:
	case GETHOSTLATENCY_GETHOSTBYADDR_R:
		break;
	default:
		return read_user_str(frame->host, sizeof(frame->host), (void *)from);
	}
	if (family == AF_INET) {
		frame->event.family = AF_INET;
		return bpf_probe_read_user(frame->host, 4, (void *)from) ? 0 : 4 + 1;
	}
	if (family == AF_INET6) {
		frame->event.family = AF_INET6;
		return bpf_probe_read_user(frame->host, 16, (void *)from) ? 0 : 16 + 1;
	}
	frame->event.no_host = true;
	return 1;
}

static __always_inline int on_entry(struct pt_regs *ctx, enum gethostlatency_call call)
{
	__u64 key = bpf_get_current_pid_tgid(), sp = ENTRY_SP(ctx), name = PT_REGS_PARM1(ctx);
	__u64 result = 0, h_errno = 0;
	struct thread *thread;
	struct frame *frame;
	bool inner = false;
	__u64 depth;
	long len;

	/* Where these programs preempted each other, single calls were missed (6.18, 7.3). */
	NO_PREEMPT();
	if (!filter_current())
		return 0;
	if (call == GETHOSTLATENCY_RES_NQUERY || call == GETHOSTLATENCY_RES_NSEARCH)
		name = PT_REGS_PARM2(ctx);
	thread = bpf_map_lookup_elem(&threads, &key);
	if (!thread) {
		if (!bpf_map_update_elem(&threads, &key, &no_calls, BPF_NOEXIST))
			thread = bpf_map_lookup_elem(&threads, &key);
		if (!thread) {
			count(GENERATED);
			count(LOST_MAP_FULL);
			return 0;
		}
	}
	depth = thread->depth;
	for (int i = 0; i < DEPTH_MAX && depth; i++) {
		frame = frame_at(thread, depth - 1);
		/* Stacks grow downwards: what lies above is still to return. */
		inner = is_inner(frame, call, name, sp);
		if (frame->sp > sp || (frame->sp == sp && inner))
			break;
		/* A library that is reached by two paths has two probes, which both come here. */
		if (frame->sp != sp || frame->name != name || frame->event.call != call)
			give_up(frame);
		inner = false;
		depth--;
	}
	if (depth >= DEPTH_MAX) {
		count(GENERATED);
		count(LOST_MAP_FULL);
		return 0;
	}
	switch (call) {
	case GETHOSTLATENCY_GETHOSTBYNAME_R:
		result = PT_REGS_PARM5(ctx);
		h_errno = PT_REGS_PARM6(ctx);
		break;
	case GETHOSTLATENCY_GETHOSTBYNAME2_R:
		result = PT_REGS_PARM6(ctx);
		h_errno = entry_arg7(ctx);
		break;
	case GETHOSTLATENCY_GETHOSTBYADDR_R:
		result = entry_arg7(ctx);
		h_errno = entry_arg8(ctx);
		break;
	default:
		break;
	}
	frame = frame_at(thread, depth);
	__builtin_memset(&frame->event, 0, sizeof(frame->event));
	frame->sp = sp;
	frame->name = name;
	frame->result = result;
	frame->h_errno = h_errno;
	frame->inner = inner;
	frame->event.call = call;
	if (call == GETHOSTLATENCY_GETHOSTBYADDR || call == GETHOSTLATENCY_GETHOSTBYADDR_R)
		frame->event.family = PT_REGS_PARM3(ctx);
	if (!inner && name) {
		/* Now, for the caller may have it lie where the result will be written. */
		len = read_host(frame);
		if (len > 0)
			frame->event.host_len = len;
	}
	thread->depth = depth + 1;
	frame->start_ns = bpf_ktime_get_boot_ns();
	return 0;
}

/* Whether a _r function failed, and then why. */
static __always_inline void read_result(struct frame *frame, int ret)
{
	__u64 found = 0;

	bpf_probe_read_user(&found, sizeof(found), (void *)frame->result);
	frame->event.failed = ret || !found;
	frame->event.h_errno = 0;
	if (frame->event.failed)
		bpf_probe_read_user(&frame->event.h_errno, sizeof(frame->event.h_errno),
				    (void *)frame->h_errno);
}

static __always_inline void send(struct frame *frame, __u64 now)
{
	struct gethostlatency_event *event = &frame->event;
	long len = event->host_len;

	if (failed_only && !event->failed)
		return;
	event->task.time_ns = now;
	event->latency_ns = now - frame->start_ns;
	record_current(&event->task, current_task());
	if (!frame->name)
		event->no_host = true;
	/* Its page was not in memory at the entry, but the function has read it since. */
	if (!len && frame->name)
		len = read_host(frame);
	if (len <= 0 || len > sizeof(frame->host)) {
		event->host_unreadable = !!frame->name;
		len = 1;
	}
	/* Without the NUL. */
	len--;
	event->host_len = len;
	event->host_cut = len == sizeof(frame->host) - 1;
	barrier_var(len);
	if (len < 0 || len >= sizeof(frame->host))
		return;
	events_output(event, sizeof(*event) + len, now);
}

static __always_inline int on_return(struct pt_regs *ctx, enum gethostlatency_call call)
{
	__u64 key = bpf_get_current_pid_tgid(), sp = RETURN_SP(ctx);
	__u64 now = bpf_ktime_get_boot_ns(), ret = PT_REGS_RC(ctx), depth;
	struct thread *thread = bpf_map_lookup_elem(&threads, &key);
	struct frame *frame = NULL;
	bool found = false;

	NO_PREEMPT();
	if (!thread)
		return 0;
	depth = thread->depth;
	for (int i = 0; i < DEPTH_MAX && depth; i++) {
		frame = frame_at(thread, depth - 1);
		found = frame->sp == sp && frame->event.call == call;
		/* A call that has no frame: its outer ones stay. */
		if (found || frame->sp > sp || (frame->sp == sp && delegates(frame, call)))
			break;
		give_up(frame);
		depth--;
	}
	if (found && frame) {
		depth--;
		switch (call) {
		case GETHOSTLATENCY_GETHOSTBYNAME_R:
		case GETHOSTLATENCY_GETHOSTBYNAME2_R:
		case GETHOSTLATENCY_GETHOSTBYADDR_R:
			read_result(frame, ret);
			break;
		case GETHOSTLATENCY_GETADDRINFO:
		case GETHOSTLATENCY_GETNAMEINFO:
			frame->event.failed = !!(int)ret;
			break;
		case GETHOSTLATENCY_RES_QUERY:
		case GETHOSTLATENCY_RES_SEARCH:
		case GETHOSTLATENCY_RES_NQUERY:
		case GETHOSTLATENCY_RES_NSEARCH:
			frame->event.failed = (int)ret < 0;
			break;
		default:
			frame->event.failed = !ret;
		}
		frame->event.ret = ret;
		if (frame->inner)
			/* Where h_errno itself lies, nobody tells. */
			frame_at(thread, depth - 1)->event.h_errno = frame->event.h_errno;
		else
			send(frame, now);
	}
	thread->depth = depth;
	if (!depth)
		bpf_map_delete_elem(&threads, &key);
	return 0;
}

SEC("uprobe.multi")
int lookup__uprobe_multi(struct pt_regs *ctx)
{
	return on_entry(ctx, function_cookie(ctx));
}

SEC("uretprobe.multi")
int lookup__uretprobe_multi(struct pt_regs *ctx)
{
	return on_return(ctx, function_cookie(ctx));
}

#define FUNCTION(function, call)                                                                   \
	SEC("uprobe")                                                                              \
	int lookup__uprobe_##function(struct pt_regs *ctx)                                         \
	{                                                                                          \
		return on_entry(ctx, call);                                                        \
	}                                                                                          \
	SEC("uretprobe")                                                                           \
	int lookup__uretprobe_##function(struct pt_regs *ctx)                                      \
	{                                                                                          \
		return on_return(ctx, call);                                                       \
	}

FUNCTION(getaddrinfo, GETHOSTLATENCY_GETADDRINFO)
FUNCTION(gethostbyname, GETHOSTLATENCY_GETHOSTBYNAME)
FUNCTION(gethostbyname2, GETHOSTLATENCY_GETHOSTBYNAME2)
FUNCTION(gethostbyname_r, GETHOSTLATENCY_GETHOSTBYNAME_R)
FUNCTION(gethostbyname2_r, GETHOSTLATENCY_GETHOSTBYNAME2_R)
FUNCTION(gethostbyaddr, GETHOSTLATENCY_GETHOSTBYADDR)
FUNCTION(gethostbyaddr_r, GETHOSTLATENCY_GETHOSTBYADDR_R)
FUNCTION(getnameinfo, GETHOSTLATENCY_GETNAMEINFO)
FUNCTION(res_query, GETHOSTLATENCY_RES_QUERY)
FUNCTION(res_search, GETHOSTLATENCY_RES_SEARCH)
FUNCTION(res_nquery, GETHOSTLATENCY_RES_NQUERY)
FUNCTION(res_nsearch, GETHOSTLATENCY_RES_NSEARCH)

/* A thread that ends in a call. */
static __always_inline int on_exit(void)
{
	__u64 key = bpf_get_current_pid_tgid();
	struct thread *thread = bpf_map_lookup_elem(&threads, &key);
	__u64 depth;

	if (!thread)
		return 0;
	depth = thread->depth;
	for (int i = 0; i < DEPTH_MAX && i < depth; i++)
		give_up(frame_at(thread, i));
	bpf_map_delete_elem(&threads, &key);
	return 0;
}

TRACEPOINT_HOOK(thread_end, "sched_process_exit", on_exit())
