// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "block.bpf.h"
#include "counters.bpf.h"
#include "hist.bpf.h"
#include "biolatency.h"

#define HISTS_MAX 512
#define IN_FLIGHT_MAX 10240

const volatile __u64 unit_ns = 1000;
const volatile bool per_disk;
const volatile bool per_flags;
const volatile bool from_insertion;
const volatile __u64 cgroup;
const volatile bool follow_bios;

/* Without -D and -F: of requests, and of bios. */
struct kscope_hist total[2];

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, HISTS_MAX);
	__type(key, struct biolatency_key);
	__type(value, struct kscope_hist);
} hists SEC(".maps");

/* New histograms start from it: they are too big for the stack. */
static const struct kscope_hist zero;

/* When requests whose own times the kernel does not keep began. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, IN_FLIGHT_MAX);
	__type(key, __u64);
	__type(value, __u64);
} request_starts SEC(".maps");

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
		return &total[key->is_bio & 1];
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
	if (per_disk)
		key->dev = dev;
	if (per_flags)
		key->cmd_flags = flags;
	return true;
}

static __always_inline int keep_start(struct request *rq)
{
	__u64 key = (__u64)rq;
	__u64 now = bpf_ktime_get_ns();

	if (bpf_map_update_elem(&request_starts, &key, &now, BPF_ANY))
		count(LOST_MAP_FULL);
	return 0;
}

static __always_inline int on_issue(bool btf, struct request *rq)
{
	if (request_is_passthrough((__u32)FIELD(btf, rq, cmd_flags)) ||
	    queue_keeps_issue_time(btf, FIELD(btf, rq, q)))
		return 0;
	return keep_start(rq);
}

static __always_inline int on_insert(bool btf, struct request *rq)
{
	return request_keeps_start_time(btf, rq) ? 0 : keep_start(rq);
}

static __always_inline int on_complete(bool btf, struct request *rq, unsigned int bytes)
{
	__u32 flags = (__u32)FIELD(btf, rq, cmd_flags);
	__u32 left = FIELD(btf, rq, __data_len);
	struct biolatency_key key = {};
	__u64 ptr = (__u64)rq;
	__u64 start, *kept;

	/* A part of the request: the rest is to come. */
	if (bytes < left || request_is_passthrough(flags))
		return 0;
	if (from_insertion) {
		/* A step of a flush sequence is a part of the request that needs the sequence. */
		if (request_is_flush_step(btf, rq))
			return 0;
		start = request_keeps_start_time(btf, rq) ? FIELD(btf, rq, start_time_ns) : 0;
	} else {
		/* The end of a flush sequence, whose steps were counted as the device did them. */
		if ((flags & REQ_OP_MASK) == REQ_OP_WRITE && !left)
			return 0;
		start = FIELD(btf, rq, io_start_time_ns);
	}
	if (!set_key(btf, &key, request_disk(btf, rq), flags))
		return 0;
	if (cgroup && !bio_in_cgroup(FIELD(btf, rq, bio), cgroup))
		return 0;
	if (!start) {
		kept = bpf_map_lookup_elem(&request_starts, &ptr);
		if (!kept) {
			count(DROPPED_UNKNOWN_START);
			return 0;
		}
		start = *kept;
		bpf_map_delete_elem(&request_starts, &ptr);
	}
	measure(&key, start);
	return 0;
}

/* Requests have their own hooks: only devices that make none are followed by bio. */
static __always_inline int on_bio_queue(bool btf, struct bio *bio)
{
	struct gendisk *disk = bio_disk(btf, bio);
	struct biolatency_bio value = {};
	__u64 key = (__u64)bio;

	if (!disk || !disk_takes_bios(btf, disk))
		return 0;
	if (!set_key(btf, &value.key, disk, (__u32)FIELD(btf, bio, bi_opf)))
		return 0;
	if (cgroup && !bio_in_cgroup(bio, cgroup))
		return 0;
	value.key.is_bio = 1;
	value.start = bpf_ktime_get_ns();
	if (bpf_map_update_elem(&bios, &key, &value, BPF_ANY))
		count(LOST_MAP_FULL);
	return 0;
}

static __always_inline int on_bio_complete(struct bio *bio)
{
	__u64 key = (__u64)bio;
	struct biolatency_bio *value = bpf_map_lookup_elem(&bios, &key);
	struct biolatency_bio copy;

	if (!value) {
		/* Filtered out; or there was no such disk when the tool started. */
		if (!follow_bios && (!cgroup || bio_in_cgroup(bio, cgroup)))
			count(DROPPED_UNKNOWN_START);
		return 0;
	}
	copy = *value;
	bpf_map_delete_elem(&bios, &key);
	measure(&copy.key, copy.start);
	return 0;
}

TRACEPOINT_HOOK(issue, "block_rq_issue", on_issue(btf, ISSUE_RQ(ctx)))
TRACEPOINT_HOOK(insert, "block_rq_insert", on_insert(btf, ISSUE_RQ(ctx)))
TRACEPOINT_HOOK(complete, "block_rq_complete", on_complete(btf, (struct request *)ctx[0], ctx[2]))
TRACEPOINT_HOOK(bio_queue, "block_bio_queue", on_bio_queue(btf, BIO_QUEUE_BIO(ctx)))
TRACEPOINT_HOOK(bio_complete, "block_bio_complete", on_bio_complete((struct bio *)ctx[1]))
