/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Directory names, from the kernel's own objects. */
#ifndef KSCOPE_PATH_BPF_H
#define KSCOPE_PATH_BPF_H

#include "kscope.bpf.h"

#define PATH_DEPTH_MAX 64
#define PATH_NAME_SIZE 256
/* Names written by path_names() end at most a name past this. */
#define PATH_NAMES_MAX 4096

/*
 * Write the names from path up to the root of its mount namespace, innermost first, each ended by a
 * NUL, to buf, which has room for PATH_NAMES_MAX + PATH_NAME_SIZE bytes. Returns whether the root
 * was reached.
 *
 * used counts the bytes written. It must lie in a map: what the verifier knows of a number on the
 * stack differs from one turn of the loop to the next, and it would follow each of them.
 */
static __always_inline bool path_names(__u8 *buf, __u16 *used, const struct path *path)
{
	struct vfsmount *vfsmnt = BPF_CORE_READ(path, mnt);
	struct dentry *dentry = BPF_CORE_READ(path, dentry);
	struct mount *mnt = container_of(vfsmnt, struct mount, mnt);

	*used = 0;
	for (int i = 0; i < PATH_DEPTH_MAX; i++) {
		__u32 off = *(volatile __u16 *)used;
		long len;

		if (dentry == BPF_CORE_READ(mnt, mnt.mnt_root)) {
			struct mount *above = BPF_CORE_READ(mnt, mnt_parent);

			if (above == mnt)
				return true;
			dentry = BPF_CORE_READ(mnt, mnt_mountpoint);
			mnt = above;
			continue;
		}
		if (off >= PATH_NAMES_MAX)
			return false;
		len = bpf_probe_read_kernel_str(buf + off, PATH_NAME_SIZE,
						BPF_CORE_READ(dentry, d_name.name));
		if (len <= 0 || len > PATH_NAME_SIZE)
			return false;
		*used = off + len;
		dentry = BPF_CORE_READ(dentry, d_parent);
	}
	return false;
}

#endif
