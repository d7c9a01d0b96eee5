/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* io_uring: for which task its requests and workers are at work, and the files of a ring's own. */
#ifndef KSCOPE_URING_BPF_H
#define KSCOPE_URING_BPF_H

#include "kscope.bpf.h"

#define PF_IO_WORKER 0x00000010
#define IORING_FILE_INDEX_ALLOC (~0U)

/* io_uring_complete passes the completion entry; before 6.16, user data and result instead. */
const volatile bool uring_complete_has_cqe;

#define URING_RESULT(ctx)                                                                          \
	(uring_complete_has_cqe ? BPF_CORE_READ((struct io_uring_cqe *)RAW_ARG(ctx, 2), res)       \
				: (int)RAW_ARG(ctx, 3))

/* 6.13 took the task out of the request, and left the way to it. */
struct io_uring_task___task {
	struct task_struct *task;
} __attribute__((preserve_access_index));

struct io_kiocb___tctx {
	struct io_uring_task___task *tctx;
} __attribute__((preserve_access_index));

/* Who submitted it: completions come in whatever task is running. */
static __always_inline struct task_struct *uring_task(struct io_kiocb *req)
{
	struct io_kiocb___tctx *newer = (void *)req;

	if (bpf_core_field_exists(newer->tctx))
		return BPF_CORE_READ(newer, tctx, task);
	return BPF_CORE_READ(req, task);
}

/*
 * The task that a thread of io_uring works for; any other task works for itself. A worker knows
 * that from 6.4 on; elsewhere it is the process' first thread.
 */
static __always_inline struct task_struct *uring_owner(struct task_struct *task)
{
	struct task_struct *owner = NULL;
	struct io_worker *worker = NULL;

	if (!(BPF_CORE_READ(task, flags) & PF_IO_WORKER))
		return task;
	if (bpf_core_field_exists(worker->wq)) {
		worker = BPF_CORE_READ(task, worker_private);
		owner = BPF_CORE_READ(worker, wq, task);
	}
	/* Workers of a thread that polls for submissions work for that. */
	if (!owner || (BPF_CORE_READ(owner, flags) & PF_IO_WORKER))
		owner = BPF_CORE_READ(task, group_leader);
	return owner;
}

/* The same of the running task, where that is a thread of io_uring; else NULL. */
static __always_inline struct task_struct *uring_current_owner(void)
{
	if (!(CURRENT(flags) & PF_IO_WORKER))
		return NULL;
	return uring_owner((struct task_struct *)bpf_get_current_task());
}

/* 6.13 made a table of nodes of a ring's files. */
struct io_rsrc_node___file {
	unsigned long file_ptr;
} __attribute__((preserve_access_index));

struct io_rsrc_data___nodes {
	unsigned int nr;
	struct io_rsrc_node___file **nodes;
} __attribute__((preserve_access_index));

struct io_file_table___data {
	struct io_rsrc_data___nodes data;
} __attribute__((preserve_access_index));

struct io_ring_ctx___data {
	struct io_file_table___data file_table;
} __attribute__((preserve_access_index));

/* The file in a slot of a ring's own table, to be read by probe reads, or NULL. */
static __always_inline struct file *uring_file(struct io_ring_ctx *ring, __u32 slot)
{
	struct io_ring_ctx___data *newer = (void *)ring;
	struct io_rsrc_node___file **nodes, *node = NULL;
	struct io_fixed_file *files;
	unsigned long file = 0;

	if (bpf_core_field_exists(newer->file_table.data.nodes)) {
		if (slot >= BPF_CORE_READ(newer, file_table.data.nr))
			return NULL;
		nodes = BPF_CORE_READ(newer, file_table.data.nodes);
		bpf_probe_read_kernel(&node, sizeof(node), nodes + slot);
		file = node ? BPF_CORE_READ(node, file_ptr) : 0;
	} else if (bpf_core_field_exists(ring->nr_user_files)) {
		if (slot >= BPF_CORE_READ(ring, nr_user_files))
			return NULL;
		files = BPF_CORE_READ(ring, file_table.files);
		bpf_probe_read_kernel(&file, sizeof(file), files + slot);
	}
	/* The lowest bits are flags. */
	return (struct file *)(file & ~7UL);
}

/*
 * The socket that an accept leaves in a slot of the ring, as it completes; NULL: it is none such.
 * Where it goes on accepting there is no request: then the result is a slot, if it is an accept's.
 */
static __always_inline struct file *uring_accepted(struct io_ring_ctx *ring, struct io_kiocb *req,
						   int result)
{
	__u32 slot;

	if (result < 0)
		return NULL;
	if (!req)
		return uring_file(ring, result);
	if (BPF_CORE_READ(req, opcode) != IORING_OP_ACCEPT)
		return NULL;
	/* Numbered from 1; 0: the result is a descriptor. */
	slot = BPF_CORE_READ((struct io_accept *)req, file_slot);
	if (!slot)
		return NULL;
	return uring_file(ring, slot == IORING_FILE_INDEX_ALLOC ? result : slot - 1);
}

#endif
