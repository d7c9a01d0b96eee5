// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "block_io.bpf.h"
#include "turns.bpf.h"
#include "biotop.h"

#define ROWS_MAX 4096

TURNS(struct biotop_key, struct biotop_value, ROWS_MAX)

static __always_inline void block_io_ended(struct block_io *io)
{
	struct biotop_key key = {
		.tgid = io->by.tgid,
		.dev = io->dev,
		.op = io->cmd_flags & REQ_OP_MASK,
		.is_bio = io->is_bio,
	};
	struct biotop_value first = {};
	struct biotop_value *value;

	count(GENERATED);
	__builtin_memcpy(first.comm, io->by.comm, sizeof(first.comm));
	value = turns_value(&key, &first);
	if (!value)
		return;
	__sync_fetch_and_add(&value->ios, 1);
	__sync_fetch_and_add(&value->bytes, io->bytes);
	if (io->has_device_time) {
		__sync_fetch_and_add(&value->timed, 1);
		__sync_fetch_and_add(&value->total_ns, io->device_ns);
	}
}
