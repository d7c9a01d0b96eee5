/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The files behind the running task's descriptors. */
#ifndef KSCOPE_FD_BPF_H
#define KSCOPE_FD_BPF_H

#include "kscope.bpf.h"

/* The file of a descriptor, to be read by probe reads, or NULL. */
static __always_inline struct file *fd_file(__u32 fd)
{
	struct file *file = NULL;
	struct fdtable *fdt;
	struct file **fds;
	__u32 max;

	/* Then what leads there is read directly. */
	if (CURRENT_IS_TYPED()) {
		struct files_struct *files = bpf_get_current_task_btf()->files;

		if (!files)
			return NULL;
		fdt = files->fdt;
		fds = fdt->fd;
		max = fdt->max_fds;
	} else {
		struct task_struct *task = (struct task_struct *)bpf_get_current_task();

		fdt = BPF_CORE_READ(task, files, fdt);
		fds = BPF_CORE_READ(fdt, fd);
		max = BPF_CORE_READ(fdt, max_fds);
	}
	if (fd < max)
		bpf_probe_read_kernel(&file, sizeof(file), fds + fd);
	return file;
}

#endif
