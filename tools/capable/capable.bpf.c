// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "cgroup_names.bpf.h"
#include "events.bpf.h"
#include "filter.bpf.h"
#include "stack.bpf.h"
#include "capable.h"

#define CHECKS_MAX 4096
#define SEEN_MAX 16384
#define EEXIST 17

const volatile __u32 unique; /* enum capable_unique */
const volatile bool refused_only;
const volatile bool audited_only;
const volatile __u64 caps; /* a bit for each capability that is wanted; 0: all are */
const volatile struct capable_caller callers[CAPABLE_CALLERS_MAX];
const volatile __u32 callers_len;

/* CAP_OPT_NOAUDIT of include/linux/security.h */
#define OPT_NOAUDIT 2
/* From the tracing itself to what called security_capable(). */
#define FRAMES 12

/* A check that has begun, where its end does not tell what was asked. */
struct check {
	__u64 cred;
	__u64 user_ns;
	__u32 cap;
	__u32 opts;
	__u64 kernel_stack;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CHECKS_MAX);
	__type(key, __u32);
	__type(value, struct check);
} checks SEC(".maps");

/* What is printed once: a process is told from a later one of its number by its start. */
struct seen_key {
	__u64 id;
	__u32 tgid;
	__u16 cap;
	__u8 refused;
	__u8 pad;
};

/* The least recently used goes: then it is printed again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SEEN_MAX);
	__type(key, struct seen_key);
	__type(value, __u8);
} seen SEC(".maps");

EVENT(capable_event);
enum capable_unique *capable_unique_type __attribute__((unused));

static __always_inline bool is_new(const struct capable_event *event)
{
	struct seen_key key = {.cap = event->cap, .refused = event->ret != 0};
	struct task_struct *task;
	__u8 one = 1;

	if (unique == CAPABLE_UNIQUE_CGROUP) {
		key.id = bpf_get_current_cgroup_id();
	} else {
		task = (struct task_struct *)bpf_get_current_task();
		key.id = BPF_CORE_READ(task, group_leader, start_time);
		key.tgid = event->task.tgid;
	}
	if (bpf_map_lookup_elem(&seen, &key))
		return false;
	/* What can't be remembered is printed. Before 6.4, the upper half may be anything. */
	return (int)bpf_map_update_elem(&seen, &key, &one, BPF_NOEXIST) != -EEXIST;
}

static __always_inline bool is_wanted(int cap)
{
	return !caps || (cap >= 0 && cap < 64 && caps >> cap & 1);
}

/*
 * The options of a check, by the function of the kernel that asked for it: a tracepoint does not
 * tell them. Without branches, of which the verifier would follow each.
 */
static __always_inline __u32 callers_opts(void *ctx)
{
	__u64 ip[FRAMES] = {};
	__u32 opts = 0;

	if (bpf_get_stack(ctx, ip, sizeof(ip), 0) <= 0)
		return 0;
	for (__u32 frame = 0; frame < FRAMES; frame++) {
		for (__u32 i = 0; i < CAPABLE_CALLERS_MAX; i++) {
			/* Negative before the function; negative up to its end. */
			__u64 from_start = ip[frame] - 1 - callers[i].start;
			__u64 from_end = ip[frame] - 1 - callers[i].end;

			opts |= -(__u32)((~from_start & from_end) >> 63) & callers[i].opts;
		}
	}
	return opts;
}

/* opts and kernel_stack: where they are known already. */
static __always_inline void on_check(bool btf, void *ctx, const struct cred *cred,
				     const struct user_namespace *user_ns, int cap,
				     const __u32 *opts, const __u64 *kernel_stack, int ret)
{
	struct capable_event event = {};

	if (refused_only && !ret)
		return;
	if (opts) {
		event.opts = *opts;
		event.opts_known = 1;
	} else if (callers_len) {
		event.opts = callers_opts(ctx);
		event.opts_known = 1;
	}
	if (audited_only && event.opts & OPT_NOAUDIT)
		return;
	record_current(&event.task, current_task());
	event.cap = cap;
	event.ret = ret;
	if (unique && !is_new(&event))
		return;
	event.task.time_ns = bpf_ktime_get_boot_ns();
	event.cred_uid = FIELD(btf, cred, uid.val);
	event.user_ns = FIELD(btf, user_ns, ns.inum);
	event.cred_user_ns = btf ? cred->user_ns->ns.inum : BPF_CORE_READ(cred, user_ns, ns.inum);
	/* Before the event, so that user space knows them by then. */
	event.kernel_stack = kernel_stack ? *kernel_stack : stack_kernel(ctx, event.task.time_ns);
	event.user_stack = stack_user(ctx, event.task.tgid, event.task.time_ns);
	events_output(&event, sizeof(event), event.task.time_ns);
}

static __always_inline int on_tracepoint(bool btf, void *ctx, const struct cred *cred,
					 const struct user_namespace *user_ns, int cap, int ret)
{
	if (is_wanted(cap) && filter_current())
		on_check(btf, ctx, cred, user_ns, cap, NULL, NULL, ret);
	return 0;
}

TRACEPOINT_HOOK(check, "cap_capable",
		on_tracepoint(btf, ctx, (const struct cred *)ctx[0],
			      (const struct user_namespace *)ctx[1], ctx[3], ctx[4]))

struct trace_event_raw_cap_capable {
	const struct cred *cred;
	struct user_namespace *target_ns;
	int cap;
	int ret;
} __attribute__((preserve_access_index));

SEC("tp/capability/cap_capable")
int check__tp(struct trace_event_raw_cap_capable *ctx)
{
	return on_tracepoint(false, ctx, ctx->cred, ctx->target_ns, ctx->cap, ctx->ret);
}

SEC("fexit/cap_capable")
int BPF_PROG(check__fexit, const struct cred *cred, struct user_namespace *target_ns, int cap,
	     unsigned int opts, int ret)
{
	__u32 known = opts;

	if (is_wanted(cap) && filter_current())
		on_check(true, ctx, cred, target_ns, cap, &known, NULL, ret);
	return 0;
}

SEC("kprobe/cap_capable")
int BPF_KPROBE(check__kprobe, const struct cred *cred, struct user_namespace *target_ns, int cap,
	       unsigned int opts)
{
	struct check check = {
		.cred = (__u64)cred,
		.user_ns = (__u64)target_ns,
		.cap = cap,
		.opts = opts,
	};
	__u32 tid = bpf_get_current_pid_tgid();

	if (!is_wanted(cap) || (audited_only && opts & OPT_NOAUDIT) || !filter_current())
		return 0;
	/* A return probe stands where the caller would be. */
	check.kernel_stack = stack_kernel(ctx, bpf_ktime_get_boot_ns());
	if (bpf_map_update_elem(&checks, &tid, &check, BPF_ANY)) {
		count(GENERATED);
		count(LOST_MAP_FULL);
	}
	return 0;
}

SEC("kretprobe/cap_capable")
int BPF_KRETPROBE(check__kretprobe, int ret)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct check *found = bpf_map_lookup_elem(&checks, &tid);
	struct check check;

	if (!found)
		return 0;
	check = *found;
	bpf_map_delete_elem(&checks, &tid);
	on_check(false, ctx, (void *)check.cred, (void *)check.user_ns, check.cap, &check.opts,
		 &check.kernel_stack, ret);
	return 0;
}
