/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Filters whose lists somebody else keeps, in pinned maps: --cgroupmap and --mntnsmap. */
#ifndef KSCOPE_PINNED_BPF_H
#define KSCOPE_PINNED_BPF_H

#include "kscope.bpf.h"

const volatile bool filter_cgroup_map;
const volatile bool filter_mntns_map;

/*
 * Each holds the pinned map: to take one in the place of a map of the object would give it that
 * one's name too, by which the skeleton knows it. The inner map here is but a template.
 */
struct pinned_map {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_HASH);
			__uint(max_entries, 1);
			__type(key, __u64);
			__type(value, __u64);
		});
} cgroup_map SEC(".maps"), mntns_map SEC(".maps");

static __always_inline bool pinned_has(void *outer, __u64 key)
{
	__u32 zero = 0;
	void *pinned = bpf_map_lookup_elem(outer, &zero);

	return pinned && bpf_map_lookup_elem(pinned, &key);
}

/* Whether the running task's cgroup and mount namespace are keys of the maps that were given. */
static __always_inline bool filter_current_pinned(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	if (filter_cgroup_map && !pinned_has(&cgroup_map, bpf_get_current_cgroup_id()))
		return false;
	return !filter_mntns_map ||
	       pinned_has(&mntns_map, BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum));
}

#endif
