/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counting in the kernel by intervals, so that all counts once: two maps take turns. */
#ifndef KSCOPE_TURNS_BPF_H
#define KSCOPE_TURNS_BPF_H

#include "counters.bpf.h"

/*
 * Programs count into the map that `turn` holds. User space puts the other one there, which on its
 * return no running program misses any more (the kernel waits for them), and then empties the first
 * at leisure: so nothing is left of keys that are gone, as processes are. TURNS(key_type,
 * value_type, entries) declares the three maps, whose size user space may set.
 */
#define TURNS(key_type, value_type, entries)                                                       \
	struct turns_map {                                                                         \
		__uint(type, BPF_MAP_TYPE_HASH);                                                   \
		__uint(max_entries, entries);                                                      \
		__type(key, key_type);                                                             \
		__type(value, value_type);                                                         \
	} turn_a SEC(".maps"), turn_b SEC(".maps");                                                \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);                                          \
		__uint(max_entries, 1);                                                            \
		__type(key, __u32);                                                                \
		__array(values, struct turns_map);                                                 \
	} turn SEC(".maps") = {.values = {[0] = &turn_a}};

/*
 * The value of this key in the map whose turn it is; one that is not there yet begins as `first`.
 * Where there is no room, that is counted as a loss. A program may call this once: the turn may be
 * another one at the next call.
 */
#define turns_value(key, first)                                                                    \
	({                                                                                         \
		__u32 __zero = 0;                                                                  \
		void *__map = bpf_map_lookup_elem(&turn, &__zero);                                 \
		void *__value = NULL;                                                              \
		if (__map) {                                                                       \
			__value = bpf_map_lookup_elem(__map, key);                                 \
			if (!__value) {                                                            \
				/* Another CPU may be first. */                                    \
				bpf_map_update_elem(__map, key, first, BPF_NOEXIST);               \
				__value = bpf_map_lookup_elem(__map, key);                         \
			}                                                                          \
		}                                                                                  \
		if (!__value)                                                                      \
			count(LOST_MAP_FULL);                                                      \
		__value;                                                                           \
	})

#endif
