/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Stacks, of the kernel and of user space. Each different one goes to user space once, through the
 * ring buffer, and is from then on known by its id, a hash; what is counted is kept by the ids. So
 * a stack costs its own depth, in one place, and two stacks never share an entry.
 */
#ifndef KSCOPE_STACK_BPF_H
#define KSCOPE_STACK_BPF_H

#include "events.bpf.h"
#include "pids.bpf.h"

/* The most frames that --perf-max-stack-depth can ask for. */
#define STACK_DEPTH_MAX 1024

/* include/linux/sched.h */
#define PF_KTHREAD 0x00200000

/* include/linux/mm.h */
#define VM_EXEC 0x00000004
#define VM_SHARED 0x00000008

/* Ids that are none: there was no such stack; it was not kept, which is counted. */
#define STACK_NONE 0
#define STACK_LOST 1
#define STACK_FIRST_ID 2

enum kscope_stack_kind {
	STACK_KERNEL, /* a kernel stack */
	STACK_USER,   /* a stack in an address space */
	STACK_SPACE,  /* an address space, before its first stack; it has no frames */
};

struct kscope_stack_head {
	__u64 zero; /* where an event has its time (bpf/record.bpf.h) */
	__u64 id;
	__u64 space;	   /* a user stack's address space */
	__u64 stack_start; /* of an address space: where its first thread's stack begins */
	__u32 tgid;
	__u32 kind;
};

_Static_assert(sizeof(struct kscope_stack_head) == 40, "size of stack_head");

/*
 * Processes by number: which address space a process was seen in, and which of its generations. A
 * new one begins when code of another file may lie where code lay before, so that an address means
 * one thing in each. Two processes that share a slot take it from each other: then a new generation
 * begins every 17 seconds, or when the pages of code are others.
 */
#define STACK_SLOTS 4096
#define STACK_SHARED_BITS 34
/* A program that makes code changes its pages of code often: so many of such changes count. */
#define STACK_PAGES_CHANGES 8

enum kscope_stack_limits {
	/* Generations that can be told apart; user space gives no names to what changed by then. */
	STACK_GENERATIONS_MAX = 256,
};

struct kscope_stack_slot {
	__u64 id;    /* the generation's, 0: another one is to begin */
	__u64 space; /* hash of what tells address spaces apart */
	__u64 pages; /* of code, as the generation began */
	/* The addresses at which files were mapped since the first generation. */
	__u64 start;
	__u64 end;
	__u64 stack_start;
	__u32 tgid;
	__u16 pages_changes;
	__u16 generations;
};

_Static_assert(sizeof(struct kscope_stack_slot) == 56, "size of stack_slot");

struct kscope_stack_buffer {
	struct kscope_stack_head head;
	__u64 ip[STACK_DEPTH_MAX];
};

struct kscope_stack_key {
	__u64 kernel;
	__u64 user;
	__u32 tgid;
	__u32 tid; /* 0: of all threads of this name */
	__u8 comm[KSCOPE_COMM_LEN];
};

_Static_assert(sizeof(struct kscope_stack_key) == 40, "size of stack_key");

struct kscope_stack_value {
	__u64 count;
	__u64 total_ns;
};

_Static_assert(sizeof(struct kscope_stack_value) == 16, "size of stack_value");

/* User space sets these: see kscope::set_stacks!. */
const volatile __u32 stack_depth = 127;
const volatile bool stack_want_kernel = true;
const volatile bool stack_want_user = true;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kscope_stack_buffer);
} stack_scratch SEC(".maps");

/* The ids of stacks and address spaces that were sent. Its size: --stack-storage-size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u8);
} stack_ids SEC(".maps");

/* What was counted by stacks. Its size: --stack-storage-size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct kscope_stack_key);
	__type(value, struct kscope_stack_value);
} stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, STACK_SLOTS);
	__type(key, __u32);
	__type(value, struct kscope_stack_slot);
} stack_slots SEC(".maps");

/* For the skeleton to have its enumerators. */
enum kscope_stack_kind *stack_kind_type __attribute__((unused));
enum kscope_stack_limits *stack_limits_type __attribute__((unused));

/* Once there was no room for an id, none is sent any more: user space would only forget it. */
bool stack_ids_full;

/* A step of a 64-bit hash; the factor is 2^64 divided by the golden ratio. */
static __always_inline __u64 stack_mix(__u64 hash, __u64 value)
{
	hash = (hash ^ value) * 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 32;
}

/* The hash of the frames in this CPU's scratch. Global, for the verifier to look at it once only.
 */
__noinline __u64 stack_hash(__u64 hash, __u32 frames)
{
	__u32 zero = 0;
	struct kscope_stack_buffer *record = bpf_map_lookup_elem(&stack_scratch, &zero);

	if (!record)
		return 0;
	for (__u32 i = 0; i < STACK_DEPTH_MAX; i++) {
		if (i >= frames)
			break;
		hash = stack_mix(hash, record->ip[i]);
	}
	return hash;
}

static __always_inline struct kscope_stack_slot *stack_slot(__u32 tgid)
{
	__u32 key = tgid % STACK_SLOTS;

	return bpf_map_lookup_elem(&stack_slots, &key);
}

/* Have another generation begin at the next stack. */
static __always_inline void stack_end_generation(struct kscope_stack_slot *slot)
{
	if (slot->generations < STACK_GENERATIONS_MAX)
		slot->id = 0;
}

/* Code has gone, so that other code may come to its place. */
static __always_inline void stack_check_pages(struct kscope_stack_slot *slot, __u64 pages)
{
	if (!slot->id || slot->pages == pages || slot->pages_changes >= STACK_PAGES_CHANGES)
		return;
	if (pages < slot->pages) {
		slot->start = 0;
		slot->end = ~0ULL;
	}
	slot->pages_changes++;
	stack_end_generation(slot);
}

/*
 * The address space of the running task: another one after an execve, which begins a new stack at
 * random and, without that, has another program, and another one for a new process of an old
 * number; and in it the generation. 0: it has none, as kernel threads and tasks that end. Two CPUs
 * may each begin a generation at once, which makes one more of them.
 */
static __always_inline __u64 stack_space(__u32 tgid, __u64 now, __u64 *stack_start)
{
	struct kscope_stack_slot *slot;
	__u64 space, code, pages, id, since = now;

	/* Direct loads of null's members give 0 too. */
	if (CURRENT_IS_TYPED()) {
		struct task_struct *task = bpf_get_current_task_btf();

		*stack_start = task->mm->start_stack;
		code = task->mm->end_code;
		pages = task->mm->exec_vm;
		space = task->group_leader->start_boottime;
	} else {
		struct task_struct *task = (void *)bpf_get_current_task();

		*stack_start = BPF_CORE_READ(task, mm, start_stack);
		code = BPF_CORE_READ(task, mm, end_code);
		pages = BPF_CORE_READ(task, mm, exec_vm);
		space = BPF_CORE_READ(task, group_leader, start_boottime);
	}
	if (!*stack_start)
		return 0;
	space = stack_mix(stack_mix(tgid, space), code);
	space = stack_mix(space, *stack_start);
	slot = stack_slot(tgid);
	if (!slot)
		return 0;
	if (slot->space == space) {
		stack_check_pages(slot, pages);
		id = slot->id;
		if (id)
			return id;
	} else {
		since = stack_mix(pages, now >> STACK_SHARED_BITS);
		slot->space = space;
		slot->start = ~0ULL;
		slot->end = 0;
		slot->stack_start = *stack_start;
		slot->tgid = tgid;
		slot->pages_changes = 0;
		slot->generations = 0;
	}
	id = stack_mix(space, since) | STACK_FIRST_ID;
	slot->pages = pages;
	slot->generations++;
	slot->id = id;
	return id;
}

/* The running process's, if a generation of it goes on. */
static __always_inline struct kscope_stack_slot *stack_current_slot(void)
{
	__u32 tgid = current_pids() >> 32;
	struct kscope_stack_slot *slot = stack_slot(tgid);

	return slot && slot->id && slot->tgid == tgid ? slot : NULL;
}

/*
 * A tree is written: its arguments are a function, a state, a place, and, where the tree is that of
 * an address space, a mapping.
 */
static __always_inline int stack_on_store(__u64 *ctx)
{
	struct kscope_stack_slot *slot = stack_current_slot();
	struct vm_area_struct *vma = (void *)ctx[3];
	struct ma_state *mas = (void *)ctx[1];
	__u64 tree, flags, start, end;

	if (!slot || !vma)
		return 0;
	tree = (__u64)BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), mm) +
	       bpf_core_field_offset(struct mm_struct, mm_mt);
	if ((__u64)BPF_CORE_READ(mas, tree) != tree)
		return 0;
	/* Files that are shared hold code that the program makes. */
	flags = BPF_CORE_READ(vma, vm_flags);
	if (!(flags & VM_EXEC) || flags & VM_SHARED || !BPF_CORE_READ(vma, vm_file))
		return 0;
	start = BPF_CORE_READ(vma, vm_start);
	end = BPF_CORE_READ(vma, vm_end);
	if (start < slot->start)
		slot->start = start;
	if (end > slot->end)
		slot->end = end;
	stack_end_generation(slot);
	return 0;
}

/* Before 6.1: memory is about to be mapped, at a place that the kernel chooses. */
static __always_inline int stack_on_area(void)
{
	struct kscope_stack_slot *slot = stack_current_slot();

	if (slot)
		stack_check_pages(slot, BPF_CORE_READ(current_task(), mm, exec_vm));
	return 0;
}

TRACEPOINT_HOOK(stack_mapping, "ma_write", stack_on_store(ctx))
TRACEPOINT_HOOK_AS(stack_mapping, _area, "vm_unmapped_area", stack_on_area())

/* Have user space look at an address space while it is there: at once. */
static __always_inline void stack_announce(struct kscope_stack_buffer *record, __u64 space,
					   __u64 stack_start, __u32 tgid)
{
	__u8 sent = 1;

	if (bpf_map_lookup_elem(&stack_ids, &space))
		return;
	record->head.id = space;
	record->head.space = space;
	record->head.kind = STACK_SPACE;
	record->head.tgid = tgid;
	record->head.stack_start = stack_start;
	if (!bpf_ringbuf_output(&events, &record->head, sizeof(record->head), BPF_RB_FORCE_WAKEUP))
		bpf_map_update_elem(&stack_ids, &space, &sent, BPF_ANY);
}

/* The id of the running task's stack. space is 0 for the kernel's. */
static __always_inline __u64 stack_id(void *ctx, __u64 space, __u64 stack_start, __u32 tgid,
				      __u64 now)
{
	struct kscope_stack_buffer *record;
	__u32 zero = 0, frames;
	__u8 sent = 1;
	long bytes;
	__u64 id;

	record = bpf_map_lookup_elem(&stack_scratch, &zero);
	if (!record)
		return STACK_NONE;
	bytes = bpf_get_stack(ctx, record->ip, stack_depth * sizeof(__u64),
			      space ? BPF_F_USER_STACK : 0);
	if (bytes < (long)sizeof(__u64)) {
		count(space ? STACK_NO_USER : STACK_NO_KERNEL);
		return STACK_NONE;
	}
	frames = (__u64)bytes / sizeof(__u64);
	/* Threads that the kernel makes for io_uring have user registers, all of them 0. */
	if (!record->ip[0])
		return STACK_NONE;
	if (frames >= stack_depth)
		count(STACK_TRUNCATED);
	id = stack_hash(space, frames) | STACK_FIRST_ID;
	if (bpf_map_lookup_elem(&stack_ids, &id))
		return id;
	if (stack_ids_full)
		goto lost;
	if (space)
		stack_announce(record, space, stack_start, tgid);
	record->head.id = id;
	record->head.space = space;
	record->head.kind = space ? STACK_USER : STACK_KERNEL;
	record->head.tgid = tgid;
	record->head.stack_start = stack_start;
	/* The verifier must see the bound at the call. */
	barrier_var(frames);
	if (frames > STACK_DEPTH_MAX)
		frames = STACK_DEPTH_MAX;
	if (events_send(record, sizeof(record->head) + frames * sizeof(__u64), now))
		goto lost;
	if (!bpf_map_update_elem(&stack_ids, &id, &sent, BPF_ANY))
		return id;
	stack_ids_full = true;
lost:
	count(STACK_NO_ROOM);
	return STACK_LOST;
}

/* The kernel's stack of the running task. now is any recent bpf_ktime_get_boot_ns(). */
static __always_inline __u64 stack_kernel(void *ctx, __u64 now)
{
	return stack_want_kernel ? stack_id(ctx, 0, 0, 0, now) : STACK_NONE;
}

/* The user's stack of the running task; a kernel thread has none. */
static __always_inline __u64 stack_user(void *ctx, __u32 tgid, __u64 now)
{
	__u64 space, stack_start;

	if (!stack_want_user || CURRENT(flags) & PF_KTHREAD)
		return STACK_NONE;
	space = stack_space(tgid, now, &stack_start);
	if (!space) {
		/* A task that is about to end. */
		count(STACK_NO_USER);
		return STACK_NONE;
	}
	return stack_id(ctx, space, stack_start, tgid, now);
}

/* Count an event of ns, or of no duration, by its stacks. */
static __always_inline void stack_add(struct kscope_stack_key *key, __u64 ns)
{
	struct kscope_stack_value first = {.count = 1, .total_ns = ns}, *value;

	count(GENERATED);
	value = bpf_map_lookup_elem(&stacks, key);
	if (!value) {
		if (!bpf_map_update_elem(&stacks, key, &first, BPF_NOEXIST))
			return;
		/* Another CPU was first, or the map is full. */
		value = bpf_map_lookup_elem(&stacks, key);
		if (!value) {
			count(LOST_MAP_FULL);
			return;
		}
	}
	__sync_fetch_and_add(&value->count, 1);
	if (ns)
		__sync_fetch_and_add(&value->total_ns, ns);
}

#endif
