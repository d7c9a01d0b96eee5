/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Each block I/O at its end, with who submitted it: for tools that define block_io_ended(). An I/O
 * is a request, as the device does it; or a bio, of devices that make no requests.
 *
 * Who submits is known in his own context alone, where a bio gets a request or is merged into one:
 * requests are issued and completed by whoever happens to run. So each bio is remembered, by its
 * address, until the request that holds it has ended.
 */
#ifndef KSCOPE_BLOCK_IO_BPF_H
#define KSCOPE_BLOCK_IO_BPF_H

#include "block.bpf.h"
#include "counters.bpf.h"
#include "filter.bpf.h"
#include "record.bpf.h"

#define BLOCK_BIOS_MAX 8192
#define BLOCK_FLUSHES_MAX 1024
/* More bios of one request, or requests that wait for one flush, are not looked at; but those bios
 * are forgotten, of 4 KiB each as many as a request can hold. */
#define BLOCK_WALK_MAX 128
#define BLOCK_FORGET_MAX 1024
#define NO_TIME (~0ULL)
#define BLOCK_WAITING_MAX 16
#define BLOCK_PART_MAX 16

struct block_submitter {
	struct bio_start start; /* its time is taken with want_queue_time alone */
	__u64 issue_ns;		/* CLOCK_MONOTONIC; 0 where the request carries it */
	__u64 cgroup;
	__u32 tgid;
	__u32 tid;
	__u32 uid;
	__u32 known; /* who it was */
	__u8 comm[KSCOPE_COMM_LEN];
};

struct block_io {
	struct block_submitter by;
	__u64 sector;
	__u64 queue_ns;
	__u64 device_ns;
	__u32 bytes;
	__u32 dev;
	__u32 cmd_flags;
	__u32 bios;   /* that it consists of; of a flush: the requests that wait for it */
	__s32 status; /* 0; of one that failed a blk_status_t, or minus an errno (before 5.18) */
	__u32 others; /* of these, submitted by other processes than the one in `by` */
	bool has_queue_time;
	bool has_device_time;
	bool is_bio;
	bool is_part; /* the device did a part, and will be given the rest again */
};

/* Of the tool. */
static __always_inline void block_io_ended(struct block_io *io);

/* The time in the queue begins with the bio, which then is seen at each stage. */
const volatile bool want_queue_time;
/* Whether bios that are no part of a request are followed. */
const volatile bool follow_bios;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, BLOCK_BIOS_MAX);
	__type(key, __u64);
	__type(value, struct block_submitter);
} submitted SEC(".maps");

/* Whether a bio found no room there before it had a request; what that misses is counted then. */
bool submitted_full;

/* When flushes were issued: they have no bio. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, BLOCK_FLUSHES_MAX);
	__type(key, __u64);
	__type(value, __u64);
} flushes SEC(".maps");

/* A bio of a device that makes no requests. */
struct block_bio {
	struct block_submitter by;
	__u64 queued_ns;
	__u64 sector;
	__u32 bytes;
	__u32 dev;
	__u32 cmd_flags;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, BLOCK_BIOS_MAX);
	__type(key, __u64);
	__type(value, struct block_bio);
} bios SEC(".maps");

static __always_inline void set_submitter(struct block_submitter *by)
{
	__u64 pids = current_pids();

	by->known = 1;
	by->tgid = pids >> 32;
	by->tid = pids;
	bpf_get_current_comm(by->comm, sizeof(by->comm));
	if (want_uid)
		by->uid = bpf_get_current_uid_gid();
	if (want_cgroup)
		by->cgroup = bpf_get_current_cgroup_id();
}

static __always_inline void count_lost(void)
{
	count(GENERATED);
	count(LOST_MAP_FULL);
}

/* The cgroup that the block layer charges a bio to, if it is one of version 2. */
static __always_inline __u64 charged_cgroup(struct bio *bio)
{
	struct cgroup *cgroup;

	if (!want_cgroup || !bpf_core_field_exists(bio->bi_blkg))
		return 0;
	cgroup = BPF_CORE_READ(bio, bi_blkg, blkcg, css.cgroup);
	if (!cgroup || BPF_CORE_READ(cgroup, root, hierarchy_id))
		return 0;
	return BPF_CORE_READ(cgroup, kn, id);
}

/* Who submitted this bio, if that is known from an earlier stage. */
static __always_inline struct block_submitter *known_submitter(bool btf, struct bio *bio,
							       enum bio_stage stage)
{
	__u64 key = (__u64)bio;
	struct block_submitter *by = bpf_map_lookup_elem(&submitted, &key);

	return by && bio_goes_on(btf, &by->start, bio, stage) ? by : NULL;
}

/* Who submits this bio: known already; or found out into `new`; or NULL: that does not pass. */
static __always_inline struct block_submitter *
find_submitter(bool btf, struct bio *bio, enum bio_stage stage, struct block_submitter *new)
{
	struct block_submitter *known;
	bool is_released;

	if (want_queue_time) {
		known = known_submitter(btf, bio, stage);
		if (known)
			return known;
	}
	set_submitter(new);
	is_released = stage > BIO_SUBMITTED && releases_bios(new->comm);
	if (is_released && !want_queue_time) {
		known = known_submitter(btf, bio, stage);
		if (known)
			return known;
	}
	if (!filter_is_empty() && (is_released || !filter_current()))
		return NULL;
	if (is_released) {
		/* Others submitted it, at a time of which nothing is known. */
		count(DROPPED_HELD_BACK);
		__builtin_memset(new, 0, sizeof(*new));
		new->cgroup = charged_cgroup(bio);
	} else if (want_queue_time && stage == BIO_IN_REQUEST && submitted_full) {
		/* It may have been submitted long before. */
		count(DROPPED_MAP_FULL);
	} else if (want_queue_time) {
		new->start.ns = bpf_ktime_get_ns();
	}
	new->start.stage = stage;
	if (stage == BIO_SUBMITTED)
		new->start.sector = FIELD(btf, bio, bi_iter.bi_sector);
	return new;
}

/* is_first: of the bios that its request will consist of. */
static __always_inline int on_submit(bool btf, struct bio *bio, enum bio_stage stage, bool is_first)
{
	struct block_submitter new = {}, *by;
	__u64 key = (__u64)bio;

	if (block.target_dev && other_disk(btf, bio_disk(btf, bio)))
		return 0;
	by = find_submitter(btf, bio, stage, &new);
	if (!by)
		return forget(&submitted, key);
	if (by != &new || !bpf_map_update_elem(&submitted, &key, by, BPF_ANY))
		return 0;
	if (stage < BIO_IN_REQUEST)
		submitted_full = true;
	else if (filter_is_empty())
		count(DROPPED_MAP_FULL);
	else if (is_first)
		/* Nobody will know that it passed. */
		count_lost();
	return 0;
}

/* The first part of a bio that is too big; the rest is the old bio. */
static __always_inline int on_split(bool btf, struct bio *part)
{
	__u64 whole = (__u64)FIELD(btf, part, bi_private);
	struct block_submitter by, *known;
	__u64 key = (__u64)part;

	known = bpf_map_lookup_elem(&submitted, &whole);
	if (!known)
		return forget(&submitted, key);
	by = *known;
	bio_was_split(&known->start, (struct bio *)whole);
	if (bpf_map_update_elem(&submitted, &key, &by, BPF_ANY))
		submitted_full = true;
	return 0;
}

static __always_inline int on_issue(bool btf, struct request *rq)
{
	__u32 flags = (__u32)FIELD(btf, rq, cmd_flags);
	struct bio *bio = FIELD(btf, rq, bio);
	__u64 now, key;

	if (request_is_passthrough(flags) || queue_keeps_issue_time(btf, FIELD(btf, rq, q)))
		return 0;
	now = bpf_ktime_get_ns();
	if (!bio) {
		key = (__u64)rq;
		if ((flags & REQ_OP_MASK) == REQ_OP_FLUSH &&
		    bpf_map_update_elem(&flushes, &key, &now, BPF_ANY))
			count(DROPPED_MAP_FULL);
		return 0;
	}
	/* With the first one that is known, which is the one that the end will find. */
	for (int i = 0; i < BLOCK_WALK_MAX && bio; i++) {
		struct block_submitter *by;

		key = (__u64)bio;
		by = bpf_map_lookup_elem(&submitted, &key);
		if (by) {
			by->issue_ns = now;
			break;
		}
		bio = FIELD(btf, bio, bi_next);
	}
	return 0;
}

/* Add so that the verifier does not know the sum: it would follow each of them to the program's
 * end. */
static __always_inline void add_unseen(__u32 *to, __u32 value)
{
	__sync_fetch_and_add(to, value);
}

/* Both times, from when the I/O was submitted and issued, each 0 if that is not known. */
static __always_inline void set_times(struct block_io *io, __u64 submit, __u64 issue, __u64 now)
{
	/* The kernel may have read its clock once for a batch, before this one was submitted. */
	if (issue && issue < submit)
		issue = submit;
	if (!issue)
		count(DROPPED_UNKNOWN_START);
	else if (now < issue)
		count(DROPPED_NEGATIVE_TIME);
	else {
		io->device_ns = now - issue;
		io->has_device_time = true;
	}
	if (!want_queue_time || !submit || !issue)
		return;
	io->queue_ns = issue - submit;
	io->has_queue_time = true;
}

/* Who waits for a flush that has ended is who wanted it. */
static __always_inline void take_waiting(struct request *rq, struct block_io *io)
{
	struct list_head *list = flush_waiting(rq), *entry;
	__u64 key = (__u64)rq;
	__u64 *kept;

	entry = list ? BPF_CORE_READ(list, next) : NULL;
	for (int i = 0; i < BLOCK_WAITING_MAX && entry && entry != list; i++) {
		struct request *waiting = flush_waiter(entry);
		struct block_submitter *by;

		/* Not `bio`, which it has no more once its data has been written. */
		key = (__u64)BPF_CORE_READ(waiting, biotail);
		by = bpf_map_lookup_elem(&submitted, &key);
		if (by && !io->by.known) {
			io->by = *by;
			io->by.issue_ns = 0;
		} else if (by && by->tgid != io->by.tgid) {
			add_unseen(&io->others, 1);
		}
		add_unseen(&io->bios, 1);
		entry = BPF_CORE_READ(entry, next);
	}
	key = (__u64)rq;
	kept = bpf_map_lookup_elem(&flushes, &key);
	if (kept) {
		io->by.issue_ns = *kept;
		bpf_map_delete_elem(&flushes, &key);
	}
}

/* Forget a bio and those behind it; how many they are. As a global function, the verifier looks at
 * it once and not on each way to it. */
__noinline __u32 forget_bios(__u64 first)
{
	struct bio *bio = (struct bio *)first;
	__u32 i;

	for (i = 0; i < BLOCK_FORGET_MAX && bio; i++) {
		__u64 key = (__u64)bio;

		bpf_map_delete_elem(&submitted, &key);
		bio = BPF_CORE_READ(bio, bi_next);
	}
	return i;
}

/* Who submitted the bios of a request that has ended, which are forgotten. */
static __always_inline void take_submitters(bool btf, struct bio *bio, struct block_io *io)
{
	__u64 oldest = NO_TIME, rest = 0;

	for (int i = 0; i < BLOCK_WALK_MAX && bio; i++) {
		__u64 key = (__u64)bio;
		struct block_submitter *by = bpf_map_lookup_elem(&submitted, &key);

		if (by) {
			/* What was merged at the front came later. */
			if (by->start.ns < oldest)
				oldest = by->start.ns;
			if (!io->by.known)
				io->by = *by;
			else if (by->tgid != io->by.tgid)
				add_unseen(&io->others, 1);
			bpf_map_delete_elem(&submitted, &key);
		}
		add_unseen(&io->bios, 1);
		bio = FIELD(btf, bio, bi_next);
	}
	io->by.start.ns = oldest == NO_TIME ? 0 : oldest;
	if (!bio)
		return;
	/* A global function takes numbers alone, and a typed pointer is none. */
	__sync_fetch_and_add(&rest, (__u64)bio);
	add_unseen(&io->bios, forget_bios(rest));
}

/* Forget the bios that a part of a request finishes. */
static __always_inline void forget_part(bool btf, struct bio *bio, __u32 bytes)
{
	for (int i = 0; i < BLOCK_PART_MAX && bio; i++) {
		__u32 size = FIELD(btf, bio, bi_iter.bi_size);
		__u64 key = (__u64)bio;

		if (bytes < size)
			break;
		bytes -= size;
		bpf_map_delete_elem(&submitted, &key);
		bio = FIELD(btf, bio, bi_next);
	}
}

static __always_inline int on_complete(bool btf, struct request *rq, int status, __u32 bytes)
{
	__u32 flags = (__u32)FIELD(btf, rq, cmd_flags);
	__u32 left = FIELD(btf, rq, __data_len);
	struct bio *bio = FIELD(btf, rq, bio);
	struct block_submitter *by;
	struct block_io io = {};
	__u64 key = (__u64)bio;
	__u64 now, submit, issue;

	if (request_is_passthrough(flags))
		return 0;
	/* The end of a flush sequence, whose steps were shown as the device did them. */
	if ((flags & REQ_OP_MASK) == REQ_OP_WRITE && !left) {
		bpf_map_delete_elem(&submitted, &key);
		return 0;
	}
	if (block.target_dev && other_disk(btf, request_disk(btf, rq)))
		return 0;
	io.dev = disk_dev(btf, request_disk(btf, rq));
	io.cmd_flags = flags;
	io.status = status;
	io.is_part = bytes < left;
	if ((flags & REQ_OP_MASK) == REQ_OP_FLUSH) {
		take_waiting(rq, &io);
	} else {
		io.sector = FIELD(btf, rq, __sector);
		io.bytes = io.is_part ? bytes : left;
		if (io.is_part || request_is_flush_step(btf, rq)) {
			/* The bio is needed again: by the rest, or by the next step of the
			 * sequence. */
			by = bpf_map_lookup_elem(&submitted, &key);
			if (by)
				io.by = *by;
			io.bios = 1;
			if (io.is_part)
				forget_part(btf, bio, bytes);
		} else {
			take_submitters(btf, bio, &io);
		}
	}
	if (!io.by.known && !filter_is_empty())
		return 0;
	submit = io.by.start.ns;
	issue = io.by.issue_ns;
	/* Loads of their own: the verifier wants an instruction to read one kind of memory. */
	barrier_var(submit);
	barrier_var(issue);
	if (FIELD(btf, rq, io_start_time_ns))
		issue = FIELD(btf, rq, io_start_time_ns);
	now = bpf_ktime_get_ns();
	set_times(&io, submit, issue, now);
	block_io_ended(&io);
	return 0;
}

static __always_inline int on_bio_queue(bool btf, struct bio *bio)
{
	struct gendisk *disk = bio_disk(btf, bio);
	struct block_bio value = {};
	struct block_submitter *by;
	__u64 key = (__u64)bio;

	if (!disk || other_disk(btf, disk))
		return 0;
	/* Those that get a request are followed by it. */
	if (!disk_takes_bios(btf, disk))
		return want_queue_time ? on_submit(btf, bio, BIO_QUEUED, true) : 0;
	by = find_submitter(btf, bio, BIO_QUEUED, &value.by);
	if (!by)
		return forget(&bios, key);
	if (by == &value.by) {
		/* Nothing that is known held it back. */
		value.by.start.ns = 0;
	} else {
		value.by = *by;
		bpf_map_delete_elem(&submitted, &key);
	}
	value.queued_ns = bpf_ktime_get_ns();
	value.dev = disk_dev(btf, disk);
	value.sector = FIELD(btf, bio, bi_iter.bi_sector);
	value.bytes = FIELD(btf, bio, bi_iter.bi_size);
	value.cmd_flags = (__u32)FIELD(btf, bio, bi_opf);
	if (bpf_map_update_elem(&bios, &key, &value, BPF_ANY))
		count_lost();
	return 0;
}

static __always_inline int on_bio_complete(struct bio *bio)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 key = (__u64)bio;
	struct block_bio *value = bpf_map_lookup_elem(&bios, &key);
	struct block_io io = {};

	/* One that failed before it had a request, or was not looked at in a long one. */
	if (want_queue_time)
		forget(&submitted, key);
	if (!value) {
		/* Filtered out; or there was no such disk when the tool started. */
		if (!follow_bios && filter_is_empty())
			count(DROPPED_UNKNOWN_START);
		return 0;
	}
	io.by = value->by;
	io.dev = value->dev;
	io.sector = value->sector;
	io.bytes = value->bytes;
	io.cmd_flags = value->cmd_flags;
	set_times(&io, value->by.start.ns, value->queued_ns, now);
	bpf_map_delete_elem(&bios, &key);
	io.bios = 1;
	io.is_bio = true;
	io.status = BPF_CORE_READ(bio, bi_status);
	block_io_ended(&io);
	return 0;
}

THROTTLE_HOOKS(on_submit(btf, bio, BIO_SUBMITTED, true))
TRACEPOINT_HOOK(submit, "block_getrq", on_submit(btf, GETRQ_BIO(ctx), BIO_IN_REQUEST, true))
TRACEPOINT_HOOK(back_merge, "block_bio_backmerge",
		on_submit(btf, MERGE_BIO(ctx), BIO_IN_REQUEST, false))
TRACEPOINT_HOOK(front_merge, "block_bio_frontmerge",
		on_submit(btf, MERGE_BIO(ctx), BIO_IN_REQUEST, false))
TRACEPOINT_HOOK(split, "block_split", on_split(btf, SPLIT_BIO(ctx)))
TRACEPOINT_HOOK(issue, "block_rq_issue", on_issue(btf, ISSUE_RQ(ctx)))
TRACEPOINT_HOOK(complete, "block_rq_complete",
		on_complete(btf, (struct request *)ctx[0], ctx[1], ctx[2]))
TRACEPOINT_HOOK(bio_queue, "block_bio_queue", on_bio_queue(btf, BIO_QUEUE_BIO(ctx)))
TRACEPOINT_HOOK(bio_complete, "block_bio_complete", on_bio_complete((struct bio *)ctx[1]))

#endif
