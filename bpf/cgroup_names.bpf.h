/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The names of cgroups that are made while a tool shows cgroups, for those that are gone when it
 * does. The program is loaded only then. */
#ifndef KSCOPE_CGROUP_NAMES_BPF_H
#define KSCOPE_CGROUP_NAMES_BPF_H

#include "kscope.bpf.h"

#define CGROUPS_MADE_MAX 512
#define CGROUP_NAME_LEN 256 /* NAME_MAX, and the end */

struct kscope_cgroup_name {
	__u64 parent;
	char name[CGROUP_NAME_LEN];
};

/* By id. User space takes the name with the first event from there: the oldest may go. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, CGROUPS_MADE_MAX);
	__type(key, __u64);
	__type(value, struct kscope_cgroup_name);
} cgroups_made SEC(".maps");

static __always_inline int on_cgroup_made(struct cgroup *cgroup)
{
	struct kscope_cgroup_name made = {};
	__u64 id;

	/* Ids are those of one hierarchy: version 2 is number 0. */
	if (BPF_CORE_READ(cgroup, root, hierarchy_id))
		return 0;
	id = BPF_CORE_READ(cgroup, kn, id);
	made.parent = BPF_CORE_READ(cgroup, self.parent, cgroup, kn, id);
	bpf_probe_read_kernel_str(made.name, sizeof(made.name), BPF_CORE_READ(cgroup, kn, name));
	bpf_map_update_elem(&cgroups_made, &id, &made, BPF_ANY);
	return 0;
}

TRACEPOINT_HOOK(cgroup_made, "cgroup_mkdir", on_cgroup_made((struct cgroup *)ctx[0]))

#endif
