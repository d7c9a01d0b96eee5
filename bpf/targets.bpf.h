/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a filter's lists name, which may end while the tool runs, and come again as another. */
#ifndef KSCOPE_TARGETS_BPF_H
#define KSCOPE_TARGETS_BPF_H

#include "kscope.bpf.h"

/* Of each list; FILTER_MAX of lib/src/options.rs. */
#define KSCOPE_FILTER_MAX 32

/* No constants: user space (lib/src/targets.rs) fills them in, and changes them. */
struct kscope_targets {
	__u64 cgroup[KSCOPE_FILTER_MAX];
	__u64 tgid[KSCOPE_FILTER_MAX];
	__u64 tid[KSCOPE_FILTER_MAX];
};

struct kscope_targets targets SEC(".data.targets");

#endif
