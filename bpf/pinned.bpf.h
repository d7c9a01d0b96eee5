/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Filters whose lists somebody else keeps, in pinned maps: --cgroupmap and --mntnsmap. */
#ifndef KSCOPE_PINNED_BPF_H
#define KSCOPE_PINNED_BPF_H

#include "kscope.bpf.h"

const volatile bool filter_cgroup_map;
const volatile bool filter_mntns_map;

/* User space puts the pinned maps in the place of these. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u64);
} cgroup_map SEC(".maps"), mntns_map SEC(".maps");

/* Whether the running task's cgroup and mount namespace are keys of the maps that were given. */
static __always_inline bool filter_current_pinned(void)
{
	__u64 key;

	if (filter_cgroup_map) {
		key = bpf_get_current_cgroup_id();
		if (!bpf_map_lookup_elem(&cgroup_map, &key))
			return false;
	}
	if (filter_mntns_map) {
		struct task_struct *task = (struct task_struct *)bpf_get_current_task();

		key = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
		if (!bpf_map_lookup_elem(&mntns_map, &key))
			return false;
	}
	return true;
}

#endif
