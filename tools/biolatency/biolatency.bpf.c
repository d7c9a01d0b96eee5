// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "block.bpf.h"
#include "counters.bpf.h"
#include "hist.bpf.h"
#include "biolatency.h"

#define HISTS_MAX 512
#define IN_FLIGHT_MAX 10240
/* More bios of one request are not looked at. */
#define WALK_MAX 128

const volatile __u64 unit_ns = 1000;
const volatile bool per_disk;
const volatile bool per_flags;
/* The time begins as the bio is submitted. */
const volatile bool from_submission;
const volatile __u32 cgroups;
const volatile bool follow_bios;

/* Without -D and -F: by layer. */
struct kscope_hist total[BIOLATENCY_LAYERS];

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, HISTS_MAX);
	__type(key, struct biolatency_key);
	__type(value, struct kscope_hist);
} hists SEC(".maps");

/* Whether it is one of --cgroup's. */
static __always_inline bool passes(struct bio *bio)
{
	for (__u32 i = 0; i < KSCOPE_FILTER_MAX && i < cgroups; i++)
		if (bio_in_cgroup(bio, targets.cgroup[i]))
			return true;
	return !cgroups;
}

/* New histograms start from it: they are too big for the stack. */
static const struct kscope_hist zero;

/* When requests were issued, where the kernel does not keep it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, IN_FLIGHT_MAX);
	__type(key, __u64);
	__type(value, __u64);
} issued SEC(".maps");

/* When bios of requests were submitted. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, IN_FLIGHT_MAX);
	__type(key, __u64);
	__type(value, struct bio_start);
} submitted SEC(".maps");

/* Whether one found no room there. */
bool submitted_full;
bool issued_full;

struct biolatency_bio {
	__u64 start;
	struct biolatency_key key;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, IN_FLIGHT_MAX);
	__type(key, __u64);
	__type(value, struct biolatency_bio);
} bios SEC(".maps");

static __always_inline struct kscope_hist *find_hist(struct biolatency_key *key)
{
	struct kscope_hist *hist;

	if (!per_disk && !per_flags)
		return key->layer < BIOLATENCY_LAYERS ? &total[key->layer] : NULL;
	hist = bpf_map_lookup_elem(&hists, key);
	if (hist)
		return hist;
	/* Another CPU may be first. */
	bpf_map_update_elem(&hists, key, &zero, BPF_NOEXIST);
	return bpf_map_lookup_elem(&hists, key);
}

static __always_inline void measure(struct biolatency_key *key, __u64 start)
{
	__u64 now = bpf_ktime_get_ns();
	struct kscope_hist *hist;

	if (now < start) {
		count(DROPPED_NEGATIVE_TIME);
		return;
	}
	hist = find_hist(key);
	if (hist)
		hist_add(hist, now - start, unit_ns);
	else
		count(LOST_MAP_FULL);
}

/* Fill the key; false: the disk is not the one that was asked for. */
static __always_inline bool set_key(bool btf, struct biolatency_key *key, struct gendisk *disk,
				    __u32 flags)
{
	__u32 dev = 0;

	if (per_disk || block.target_dev)
		dev = disk_dev(btf, disk);
	if (block.target_dev && dev != block.target_dev)
		return false;
	if (disk && disk_is_stacked(btf, disk))
		key->layer = BIOLATENCY_STACKED;
	if (per_disk)
		key->dev = dev;
	if (per_flags)
		key->cmd_flags = flags;
	return true;
}

static __always_inline int on_issue(bool btf, struct request *rq)
{
	__u64 key = (__u64)rq;
	__u64 now;

	if (request_is_passthrough((__u32)FIELD(btf, rq, cmd_flags)) ||
	    queue_keeps_issue_time(btf, FIELD(btf, rq, q)) ||
	    (block.target_dev && other_disk(btf, request_disk(btf, rq))))
		return 0;
	now = bpf_ktime_get_ns();
	/* What is missed here is counted at the end, once. */
	if (bpf_map_update_elem(&issued, &key, &now, BPF_ANY))
		issued_full = true;
	return 0;
}

static __always_inline int on_submit(bool btf, struct bio *bio, enum bio_stage stage)
{
	__u64 key = (__u64)bio;
	struct bio_start start = {.stage = stage}, *known;
	__u8 comm[KSCOPE_COMM_LEN] = {};

	if (block.target_dev && other_disk(btf, bio_disk(btf, bio)))
		return 0;
	known = bpf_map_lookup_elem(&submitted, &key);
	if (known && bio_goes_on(btf, known, bio, stage))
		return 0;
	bpf_get_current_comm(comm, sizeof(comm));
	if (stage == BIO_SUBMITTED || !releases_bios(comm))
		start.ns = bpf_ktime_get_ns();
	start.sector = FIELD(btf, bio, bi_iter.bi_sector);
	if (bpf_map_update_elem(&submitted, &key, &start, BPF_ANY))
		submitted_full = true;
	return 0;
}

/* The first part of a bio that is too big; the rest is the old bio. */
static __always_inline int on_split(bool btf, struct bio *part)
{
	__u64 whole = (__u64)FIELD(btf, part, bi_private);
	__u64 key = (__u64)part;
	struct bio_start *known = bpf_map_lookup_elem(&submitted, &whole);
	struct bio_start start;

	if (!known)
		return 0;
	start = *known;
	bio_was_split(known, (struct bio *)whole);
	if (bpf_map_update_elem(&submitted, &key, &start, BPF_ANY))
		submitted_full = true;
	return 0;
}

/*
 * When the first of a request's bios was submitted; 0 if that is not known, which is counted. They
 * are forgotten.
 */
static __always_inline __u64 take_submitted(bool btf, struct request *rq)
{
	struct bio *bio = FIELD(btf, rq, bio);
	__u64 oldest = ~0ULL;

	for (int i = 0; i < WALK_MAX && bio; i++) {
		__u64 key = (__u64)bio;
		struct bio_start *start = bpf_map_lookup_elem(&submitted, &key);

		if (start) {
			if (start->ns < oldest)
				oldest = start->ns;
			bpf_map_delete_elem(&submitted, &key);
		}
		bio = FIELD(btf, bio, bi_next);
	}
	if (!oldest) {
		count(DROPPED_HELD_BACK);
		return 0;
	}
	if (oldest != ~0ULL)
		return oldest;
	if (submitted_full) {
		count(DROPPED_MAP_FULL);
		return 0;
	}
	/* A bio that a stacked disk has handed on as it is. */
	if (request_keeps_start_time(btf, rq))
		return FIELD(btf, rq, start_time_ns);
	count(DROPPED_UNKNOWN_START);
	return 0;
}

/* When a request was issued; 0 if that is not known, which is counted. */
static __always_inline __u64 take_issued(bool btf, struct request *rq)
{
	__u64 key = (__u64)rq;
	__u64 start = FIELD(btf, rq, io_start_time_ns);
	__u64 *kept;

	if (start)
		return start;
	kept = bpf_map_lookup_elem(&issued, &key);
	if (!kept) {
		if (issued_full)
			count(DROPPED_MAP_FULL);
		else
			count(DROPPED_UNKNOWN_START);
		return 0;
	}
	start = *kept;
	bpf_map_delete_elem(&issued, &key);
	return start;
}

static __always_inline int on_complete(bool btf, struct request *rq, unsigned int bytes)
{
	__u32 flags = (__u32)FIELD(btf, rq, cmd_flags);
	__u32 left = FIELD(btf, rq, __data_len);
	struct biolatency_key key = {};
	__u64 ptr = (__u64)rq;
	__u64 start;

	/* A part of the request: the rest is to come. */
	if (bytes < left || request_is_passthrough(flags))
		return 0;
	/* A step of a flush sequence is a part of the request that needs the sequence. At its end,
	 * its steps were counted as the device did them. */
	if (from_submission ? request_is_flush_step(btf, rq)
			    : (flags & REQ_OP_MASK) == REQ_OP_WRITE && !left)
		return 0;
	if (!set_key(btf, &key, request_disk(btf, rq), flags))
		return 0;
	if (!passes(FIELD(btf, rq, bio))) {
		if (!FIELD(btf, rq, io_start_time_ns))
			forget(&issued, ptr);
		return 0;
	}
	start = from_submission ? take_submitted(btf, rq) : take_issued(btf, rq);
	if (start)
		measure(&key, start);
	return 0;
}

/* When a bio of a device that makes no requests was submitted; 0 if that is not known, which is
 * counted. */
static __always_inline __u64 bio_submitted(bool btf, struct bio *bio)
{
	__u64 key = (__u64)bio;
	struct bio_start *known = bpf_map_lookup_elem(&submitted, &key);
	__u8 comm[KSCOPE_COMM_LEN] = {};
	__u64 start;

	if (known && bio_goes_on(btf, known, bio, BIO_QUEUED)) {
		start = known->ns;
		bpf_map_delete_elem(&submitted, &key);
		return start;
	}
	bpf_get_current_comm(comm, sizeof(comm));
	if (!releases_bios(comm))
		return bpf_ktime_get_ns();
	count(DROPPED_HELD_BACK);
	return 0;
}

/* Requests have their own hooks: only devices that make none are followed by bio. */
static __always_inline int on_bio_queue(bool btf, struct bio *bio)
{
	struct gendisk *disk = bio_disk(btf, bio);
	struct biolatency_bio value = {};
	__u64 key = (__u64)bio;

	if (!disk)
		return 0;
	if (!disk_takes_bios(btf, disk))
		return from_submission ? on_submit(btf, bio, BIO_QUEUED) : 0;
	if (!set_key(btf, &value.key, disk, (__u32)FIELD(btf, bio, bi_opf)) || !passes(bio))
		return forget(&bios, key);
	value.key.layer = BIOLATENCY_BIO;
	value.start = from_submission ? bio_submitted(btf, bio) : bpf_ktime_get_ns();
	if (!value.start)
		return forget(&bios, key);
	if (bpf_map_update_elem(&bios, &key, &value, BPF_ANY))
		count(LOST_MAP_FULL);
	return 0;
}

static __always_inline int on_bio_complete(struct bio *bio)
{
	__u64 key = (__u64)bio;
	struct biolatency_bio *value = bpf_map_lookup_elem(&bios, &key);
	struct biolatency_bio copy;

	/* One that failed before it had a request, or was not looked at in a long one. */
	if (from_submission)
		forget(&submitted, key);
	if (!value) {
		/* Filtered out; or there was no such disk when the tool started. */
		if (!follow_bios && passes(bio))
			count(DROPPED_UNKNOWN_START);
		return 0;
	}
	copy = *value;
	bpf_map_delete_elem(&bios, &key);
	measure(&copy.key, copy.start);
	return 0;
}

TRACEPOINT_HOOK(issue, "block_rq_issue", on_issue(btf, ISSUE_RQ(ctx)))
THROTTLE_HOOKS(on_submit(btf, bio, BIO_SUBMITTED))
TRACEPOINT_HOOK(split, "block_split", on_split(btf, SPLIT_BIO(ctx)))
TRACEPOINT_HOOK(complete, "block_rq_complete", on_complete(btf, (struct request *)ctx[0], ctx[2]))
TRACEPOINT_HOOK(bio_queue, "block_bio_queue", on_bio_queue(btf, BIO_QUEUE_BIO(ctx)))
TRACEPOINT_HOOK(bio_complete, "block_bio_complete", on_bio_complete((struct bio *)ctx[1]))
