// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "cgroup_names.bpf.h"
#include "block_io.bpf.h"
#include "events.bpf.h"
#include "biosnoop.h"

const volatile __u64 min_ns;

EVENT(biosnoop_event);

static __always_inline void block_io_ended(struct block_io *io)
{
	struct biosnoop_event event = {};

	/* One whose time is not known can't be said to have taken that long; it was counted. */
	if (min_ns && io->device_ns < min_ns)
		return;
	event.task.time_ns = bpf_ktime_get_boot_ns();
	event.sector = io->sector;
	event.queue_ns = io->queue_ns;
	event.device_ns = io->device_ns;
	event.task.cgroup = io->by.cgroup;
	event.bytes = io->bytes;
	event.dev = io->dev;
	event.cmd_flags = io->cmd_flags;
	event.bios = io->bios;
	event.others = io->others;
	event.task.tgid = io->by.tgid;
	event.task.tid = io->by.tid;
	event.task.uid = io->by.uid;
	event.status = io->status;
	event.has_queue_time = io->has_queue_time;
	event.has_device_time = io->has_device_time;
	event.is_bio = io->is_bio;
	event.is_part = io->is_part;
	__builtin_memcpy(event.task.comm, io->by.comm, sizeof(event.task.comm));
	events_output(&event, sizeof(event), event.task.time_ns);
}
