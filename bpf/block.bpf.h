/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Block requests and bios, over the kernels' versions of them. */
#ifndef KSCOPE_BLOCK_BPF_H
#define KSCOPE_BLOCK_BPF_H

#include "cgroup.bpf.h"
#include "kscope.bpf.h"

#define REQ_OP_MASK 0xff
#define REQ_OP_SCSI_IN_BEFORE_5_11 32
#define KSCOPE_STACKED_MAJORS 3

/* 5.17 took rq_disk away, for request_queue.disk of 5.15. */
struct request___rq_disk {
	struct gendisk *rq_disk;
} __attribute__((preserve_access_index));

/* 5.12 made bi_bdev of bi_disk. */
struct bio___bi_disk {
	struct gendisk *bi_disk;
} __attribute__((preserve_access_index));

/* 5.19 made accounting, a counter, of enable_accounting. */
struct blk_queue_stats___bool {
	bool enable_accounting;
} __attribute__((preserve_access_index));

/* 6.6 took this list away: a flush sequence uses that of all requests, queuelist. */
struct request___flush_list {
	struct {
		struct list_head list;
	} flush;
} __attribute__((preserve_access_index));

/* 5.17 made worker_private, where threads of the kernel have what it is that they do. */
struct task_struct___set_child_tid {
	int *set_child_tid;
} __attribute__((preserve_access_index));

/* What user space finds out about the running kernel; and the disk that is asked for, or 0. */
struct kscope_block {
	__u32 target_dev;
	/* 6.11 made enumerators of rq_flags' bits, in an enum without the name that CO-RE needs. */
	__u32 rqf_flush_seq;
	__u32 rqf_io_stat;
	/* 5.11 took the arguments before these away. */
	__u8 issue_has_queue;
	__u8 bio_queue_has_queue;
	__u8 getrq_has_queue;
	__u8 merge_has_queue;
	__u8 split_has_queue;
	__u8 remap_has_queue;
	/* Of drivers that make requests for files or for other disks; 0 if this host has none. */
	__u32 stacked_major[KSCOPE_STACKED_MAJORS];
};

const volatile struct kscope_block block;

static __always_inline __u32 disk_dev(bool btf, struct gendisk *disk)
{
	if (!disk)
		return 0;
	return FIELD(btf, disk, major) << 20 | FIELD(btf, disk, first_minor);
}

static __always_inline bool other_disk(bool btf, struct gendisk *disk)
{
	return block.target_dev && disk_dev(btf, disk) != block.target_dev;
}

/* Whether what this disk is asked for is done by a file system or by other disks. */
static __always_inline bool disk_is_stacked(bool btf, struct gendisk *disk)
{
	__u32 major = FIELD(btf, disk, major);

	for (int i = 0; i < KSCOPE_STACKED_MAJORS; i++)
		if (block.stacked_major[i] && major == block.stacked_major[i])
			return true;
	return false;
}

static __always_inline struct gendisk *request_disk(bool btf, struct request *rq)
{
	struct request___rq_disk *old = (void *)rq;

	if (bpf_core_field_exists(old->rq_disk))
		return FIELD(btf, old, rq_disk);
	return btf ? rq->q->disk : BPF_CORE_READ(rq, q, disk);
}

static __always_inline struct gendisk *bio_disk(bool btf, struct bio *bio)
{
	struct bio___bi_disk *old = (void *)bio;

	if (bpf_core_field_exists(old->bi_disk))
		return FIELD(btf, old, bi_disk);
	return btf ? bio->bi_bdev->bd_disk : BPF_CORE_READ(bio, bi_bdev, bd_disk);
}

/* Whether the disk's driver takes bios as they are: dm, md, zram, brd, pmem. It makes no requests.
 */
static __always_inline bool disk_takes_bios(bool btf, struct gendisk *disk)
{
	return btf ? disk->fops->submit_bio : BPF_CORE_READ(disk, fops, submit_bio);
}

/* Sent by a driver for its own ends, or by SG_IO: no block I/O. */
static __always_inline bool request_is_passthrough(__u32 cmd_flags)
{
	__u32 op = cmd_flags & REQ_OP_MASK;

	/* Before 5.11 there were two more, REQ_OP_SCSI_IN and _OUT, below REQ_OP_DRV_IN. */
	return op >= REQ_OP_SCSI_IN_BEFORE_5_11 && op <= REQ_OP_DRV_OUT;
}

/* A step of a flush sequence, as opposed to the request that needs the sequence. */
static __always_inline bool request_is_flush_step(bool btf, struct request *rq)
{
	return (__u32)FIELD(btf, rq, rq_flags) & block.rqf_flush_seq;
}

/* Whether start_time_ns is of this request: without statistics it may be of one that was here
 * before. */
static __always_inline bool request_keeps_start_time(bool btf, struct request *rq)
{
	return (__u32)FIELD(btf, rq, rq_flags) & block.rqf_io_stat && FIELD(btf, rq, start_time_ns);
}

/* Whether the kernel itself notes when it issues this queue's requests: blk_mq_start_request(). */
static __always_inline bool queue_keeps_issue_time(bool btf, struct request_queue *q)
{
	struct blk_queue_stats *stats = FIELD(btf, q, stats);
	struct blk_queue_stats___bool *old = (void *)stats;
	struct list_head *first;

	if (!stats)
		return false;
	first = btf ? stats->callbacks.next : BPF_CORE_READ(stats, callbacks.next);
	if (first && first != &stats->callbacks)
		return true;
	if (bpf_core_field_exists(old->enable_accounting))
		return BPF_CORE_READ(old, enable_accounting);
	return FIELD(btf, stats, accounting);
}

/* The list of requests that wait for a flush, which is flush_rq; NULL if it is none. */
static __always_inline struct list_head *flush_waiting(struct request *flush_rq)
{
	struct blk_flush_queue *fq = BPF_CORE_READ(flush_rq, mq_hctx, fq);

	if (BPF_CORE_READ(fq, flush_rq) != flush_rq)
		return NULL;
	return &fq->flush_queue[BPF_CORE_READ_BITFIELD_PROBED(fq, flush_running_idx) & 1];
}

/* The request that an entry of that list stands for. */
static __always_inline struct request *flush_waiter(struct list_head *entry)
{
	struct request___flush_list *old = NULL;

	if (bpf_core_field_exists(old->flush.list))
		return (void *)entry -
		       bpf_core_field_offset(struct request___flush_list, flush.list);
	return (void *)entry - bpf_core_field_offset(struct request, queuelist);
}

/* Whether who issued the bio is in this cgroup or below, by the block layer's own association. */
static __always_inline bool bio_in_cgroup(struct bio *bio, __u64 cgroup)
{
	struct blkcg_gq *blkg;
	struct blkcg *blkcg;

	if (!bio || !bpf_core_field_exists(bio->bi_blkg))
		return false;
	blkg = BPF_CORE_READ(bio, bi_blkg);
	if (!blkg)
		return false;
	blkcg = BPF_CORE_READ(blkg, blkcg);
	return css_in_cgroup(&blkcg->css, cgroup);
}

/* What is known of a bio, which its address alone does not tell from the next one there. */
struct bio_start {
	__u64 ns; /* CLOCK_MONOTONIC; 0 if not known */
	__u64 sector;
	__u32 stage; /* the last one that was seen */
	__u32 pad;
};

/* In their order. A cgroup's limit may hold a bio back after BIO_SUBMITTED, a full queue after
 * BIO_QUEUED. Each may be missing. */
enum bio_stage {
	BIO_SPLIT, /* the rest of one */
	BIO_SUBMITTED,
	BIO_QUEUED,
	BIO_IN_REQUEST,
};

/* Forget a bio that was at this address before, and whose end was not seen: this one is another. */
static __always_inline int forget(void *map, __u64 key)
{
	if (bpf_map_lookup_elem(map, &key))
		bpf_map_delete_elem(map, &key);
	return 0;
}

/* Whether the bio that comes to this stage is the one that `start` is of. */
static __always_inline bool bio_goes_on(bool btf, struct bio_start *start, struct bio *bio,
					enum bio_stage stage)
{
	if (start->stage >= stage)
		return false;
	/* One that failed between these two was not seen to end. */
	if (start->stage <= BIO_SUBMITTED && start->sector != FIELD(btf, bio, bi_iter.bi_sector))
		return false;
	start->stage = stage;
	return true;
}

/* The rest of a bio, of which a part was split off, may come to the stages again. */
static __always_inline void bio_was_split(struct bio_start *start, struct bio *rest)
{
	start->stage = BIO_SPLIT;
	start->sector = BPF_CORE_READ(rest, bi_iter.bi_sector);
}

/* Whether this task lets bios go on that a cgroup's limit held back: others submitted them. */
static __always_inline bool releases_bios(const __u8 *comm)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct task_struct___set_child_tid *old = (void *)task;
	struct workqueue_struct *queue;
	struct kthread *thread;
	struct worker *worker;
	__u64 name, wanted;

	__builtin_memcpy(&name, comm, sizeof(name));
	__builtin_memcpy(&wanted, "kworker/", sizeof(wanted));
	if (name != wanted)
		return false;
	if (bpf_core_field_exists(task->worker_private))
		thread = BPF_CORE_READ(task, worker_private);
	else
		thread = (void *)BPF_CORE_READ(old, set_child_tid);
	worker = BPF_CORE_READ(thread, data);
	queue = BPF_CORE_READ(worker, current_pwq, wq);
	__builtin_memcpy(&wanted, "kthrotld", sizeof(wanted));
	return !bpf_core_read(&name, sizeof(name), &queue->name) && name == wanted;
}

/*
 * A bio is about to be compared with its cgroup's limits, in the context of who submitted it. The
 * block layer has no tracepoint there. But bios to partitions, and those that dm, md and their like
 * hand on, are given their place on the disk just before: block_bio_remap. What a limit held back
 * comes here again where the kernel's function is not inlined in part, in the context of who lets
 * it go on: he submits nothing.
 */
#define THROTTLE_HOOKS(call)                                                                       \
	static __always_inline int throttle__body(bool btf, struct bio *bio)                       \
	{                                                                                          \
		__u8 comm[KSCOPE_COMM_LEN] = {};                                                   \
		NO_PREEMPT();                                                                      \
		bpf_get_current_comm(comm, sizeof(comm));                                          \
		return releases_bios(comm) ? 0 : call;                                             \
	}                                                                                          \
	SEC("fentry")                                                                              \
	int BPF_PROG(throttle__fentry, struct bio *bio)                                            \
	{                                                                                          \
		return throttle__body(true, bio);                                                  \
	}                                                                                          \
	SEC("kprobe")                                                                              \
	int BPF_KPROBE(throttle__kprobe, struct bio *bio)                                          \
	{                                                                                          \
		return throttle__body(false, bio);                                                 \
	}                                                                                          \
	SEC("tp_btf/block_bio_remap")                                                              \
	int remap__tp_btf(__u64 *ctx)                                                              \
	{                                                                                          \
		return throttle__body(true, REMAP_BIO(ctx));                                       \
	}                                                                                          \
	SEC("raw_tp/block_bio_remap")                                                              \
	int remap__raw_tp(__u64 *ctx)                                                              \
	{                                                                                          \
		return throttle__body(false, REMAP_BIO(ctx));                                      \
	}

/* The request or the bio that a tracepoint's probes get. */
#define ISSUE_RQ(ctx)                                                                              \
	((struct request *)(block.issue_has_queue ? RAW_ARG(ctx, 1) : RAW_ARG(ctx, 0)))
#define BIO_QUEUE_BIO(ctx)                                                                         \
	((struct bio *)(block.bio_queue_has_queue ? RAW_ARG(ctx, 1) : RAW_ARG(ctx, 0)))
#define GETRQ_BIO(ctx) ((struct bio *)(block.getrq_has_queue ? RAW_ARG(ctx, 1) : RAW_ARG(ctx, 0)))
#define MERGE_BIO(ctx) ((struct bio *)(block.merge_has_queue ? RAW_ARG(ctx, 2) : RAW_ARG(ctx, 0)))
#define SPLIT_BIO(ctx) ((struct bio *)(block.split_has_queue ? RAW_ARG(ctx, 1) : RAW_ARG(ctx, 0)))
#define REMAP_BIO(ctx) ((struct bio *)(block.remap_has_queue ? RAW_ARG(ctx, 1) : RAW_ARG(ctx, 0)))

#endif
