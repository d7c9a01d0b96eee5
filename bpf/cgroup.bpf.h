/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Cgroups, as a filter sees them: one passes with everything below it. */
#ifndef KSCOPE_CGROUP_BPF_H
#define KSCOPE_CGROUP_BPF_H

#include "kscope.bpf.h"

#define CGROUP_DEPTH_MAX 32
/* User space can't know it in a cgroup namespace. */
#define CGROUP_LEVEL_UNKNOWN 0xffffffff

/* Whether css belongs to the cgroup of this id or to one below. */
static __always_inline bool css_in_cgroup(struct cgroup_subsys_state *css, __u64 id)
{
	for (int i = 0; css && i < CGROUP_DEPTH_MAX; i++) {
		if (BPF_CORE_READ(css, cgroup, kn, id) == id)
			return true;
		css = BPF_CORE_READ(css, parent);
	}
	return false;
}

/* Whether a task is in the version 2 cgroup of this id or below. */
static __always_inline bool task_in_cgroup(struct task_struct *task, __u64 id)
{
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);

	return css_in_cgroup(&cgroup->self, id);
}

/* Whether the running task is in the version 2 cgroup of this id, at this level, or below. */
static __always_inline bool current_in_cgroup(__u64 id, __u32 level)
{
	/* 5.15 brought this helper to tracing programs, and with it bpf_task_pt_regs(). */
	if (level != CGROUP_LEVEL_UNKNOWN &&
	    bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return bpf_get_current_ancestor_cgroup_id(level) == id;
	return task_in_cgroup((struct task_struct *)bpf_get_current_task(), id);
}

#endif
