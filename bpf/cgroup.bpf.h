/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Cgroups, as a filter sees them: one passes with everything below it. */
#ifndef KSCOPE_CGROUP_BPF_H
#define KSCOPE_CGROUP_BPF_H

#include "targets.bpf.h"

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

/* By what a hierarchy is known: CONTROLLERS of lib/src/cgroups.rs has the same order. */
enum kscope_controller {
	CGROUP_VERSION_2,
	CGROUP_MEMORY,
	CGROUP_PIDS,
	CGROUP_CPU,
	CGROUP_CPUACCT,
	CGROUP_CPUSET,
	CGROUP_DEVICES,
	CGROUP_FREEZER,
	CGROUP_BLKIO,
};

/* A controller's number in the running kernel, or -1. */
#define CGROUP_SUBSYS(name)                                                                        \
	(bpf_core_enum_value_exists(enum cgroup_subsys_id, name##_cgrp_id)                         \
		 ? (int)bpf_core_enum_value(enum cgroup_subsys_id, name##_cgrp_id)                 \
		 : -1)

static __always_inline int cgroup_subsys(enum kscope_controller controller)
{
	switch (controller) {
	case CGROUP_MEMORY:
		return CGROUP_SUBSYS(memory);
	case CGROUP_PIDS:
		return CGROUP_SUBSYS(pids);
	case CGROUP_CPU:
		return CGROUP_SUBSYS(cpu);
	case CGROUP_CPUACCT:
		return CGROUP_SUBSYS(cpuacct);
	case CGROUP_CPUSET:
		return CGROUP_SUBSYS(cpuset);
	case CGROUP_DEVICES:
		return CGROUP_SUBSYS(devices);
	case CGROUP_FREEZER:
		return CGROUP_SUBSYS(freezer);
	case CGROUP_BLKIO:
		return CGROUP_SUBSYS(io);
	default:
		return -1;
	}
}

/* Whether a task is in the cgroup of this id or below, in the hierarchy of a controller. */
static __always_inline bool task_in_cgroup(struct task_struct *task, __u64 id,
					   enum kscope_controller controller)
{
	struct css_set *cgroups = BPF_CORE_READ(task, cgroups);
	struct cgroup_subsys_state *css = NULL;
	int subsys;

	if (controller == CGROUP_VERSION_2) {
		css = &BPF_CORE_READ(cgroups, dfl_cgrp)->self;
	} else {
		subsys = cgroup_subsys(controller);
		if (subsys < 0)
			return false;
		bpf_probe_read_kernel(&css, sizeof(css),
				      (void *)cgroups + bpf_core_field_offset(cgroups->subsys) +
					      subsys * sizeof(css));
	}
	return css_in_cgroup(css, id);
}

/* Whether the running task is in the cgroup of this id, at this level, or below. */
static __always_inline bool current_in_cgroup(__u64 id, __u32 level,
					      enum kscope_controller controller)
{
	/* 5.15 brought this helper to tracing programs, and with it bpf_task_pt_regs(). */
	if (controller == CGROUP_VERSION_2 && level != CGROUP_LEVEL_UNKNOWN &&
	    bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return bpf_get_current_ancestor_cgroup_id(level) == id;
	return task_in_cgroup((struct task_struct *)bpf_get_current_task(), id, controller);
}

#endif
