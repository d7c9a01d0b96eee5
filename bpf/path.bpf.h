/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Directory names, from the kernel's own objects. */
#ifndef KSCOPE_PATH_BPF_H
#define KSCOPE_PATH_BPF_H

#include "fd.bpf.h"
#include "kscope.bpf.h"

#define PATH_DEPTH_MAX 64
#define PATH_NAME_SIZE 256
/* Names written by path_names() end at most a name past this. */
#define PATH_NAMES_MAX 4096
#define PATH_AT_FDCWD -100

/* Why names do not lead to what they are of, for kscope::names::path(). */
enum path_mark {
	PATH_CUT = 1,	      /* there are more names above */
	PATH_UNREACHABLE = 2, /* they do not begin at the root */
	PATH_DELETED = 4,     /* it has been removed from the directory above */
};
/* The marks of the names up to the task's root are in the low half, of all names in the high. */
#define PATH_ALL_SHIFT 4

/* Where openat() and the like start from, or NULL. */
static __always_inline const struct path *path_at(int dfd)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct file *file;

	if (dfd == PATH_AT_FDCWD)
		return &BPF_CORE_READ(task, fs)->pwd;
	file = fd_file(dfd);
	return file ? &file->f_path : NULL;
}

static __always_inline const struct path *path_root(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	return &BPF_CORE_READ(task, fs)->root;
}

/* Whether the kernel would mark it as deleted: not in its directory's list, and no root. */
static __always_inline bool path_is_deleted(struct dentry *dentry)
{
	return !BPF_CORE_READ(dentry, d_hash.pprev) && BPF_CORE_READ(dentry, d_parent) != dentry;
}

/*
 * Write the names from path up to the top of its mount tree, innermost first, each ended by a NUL,
 * to buf, which has room for PATH_NAMES_MAX + PATH_NAME_SIZE bytes. Returns the marks.
 *
 * used counts the bytes written, below those of names below the running task's own root, which is
 * not the top in a chroot; where the root is not passed, they are all. Both must lie in a map: what
 * the verifier knows of a number on the stack differs from one turn of the loop to the next, and it
 * would follow each of them.
 */
static __always_inline __u8 path_names(__u8 *buf, __u16 *used, __u16 *below,
				       const struct path *path)
{
	const __u16 not_passed = 0xffff;
	const struct path *root = path_root();
	struct dentry *root_dentry = BPF_CORE_READ(root, dentry);
	struct vfsmount *root_vfsmnt = BPF_CORE_READ(root, mnt);
	struct mount *root_mnt = container_of(root_vfsmnt, struct mount, mnt);
	struct vfsmount *vfsmnt = BPF_CORE_READ(path, mnt);
	struct dentry *dentry = BPF_CORE_READ(path, dentry);
	struct mount *mnt = container_of(vfsmnt, struct mount, mnt);
	__u8 deleted = path_is_deleted(dentry) ? PATH_DELETED : 0;
	__u8 all = PATH_CUT;

	*used = 0;
	*below = not_passed;
	for (int i = 0; i < PATH_DEPTH_MAX; i++) {
		__u32 off = *(volatile __u16 *)used;
		struct dentry *parent;
		long len;

		if (dentry == root_dentry && mnt == root_mnt)
			*below = off;
		if (dentry == BPF_CORE_READ(mnt, mnt.mnt_root)) {
			struct mount *above = BPF_CORE_READ(mnt, mnt_parent);
			__s64 ns;

			if (above != mnt) {
				dentry = BPF_CORE_READ(mnt, mnt_mountpoint);
				mnt = above;
				continue;
			}
			/* None once it is unmounted, an error for the kernel's own. */
			ns = (__s64)BPF_CORE_READ(mnt, mnt_ns);
			all = !ns || (ns < 0 && ns >= -4095) ? PATH_UNREACHABLE : 0;
			break;
		}
		if (off >= PATH_NAMES_MAX)
			break;
		len = bpf_probe_read_kernel_str(buf + off, PATH_NAME_SIZE,
						BPF_CORE_READ(dentry, d_name.name));
		if (len <= 0 || len > PATH_NAME_SIZE)
			break;
		*used = off + len;
		parent = BPF_CORE_READ(dentry, d_parent);
		if (parent == dentry) {
			/* A file without a place, or one that was moved out of the mount. */
			all = PATH_UNREACHABLE;
			break;
		}
		dentry = parent;
	}
	if (*(volatile __u16 *)below != not_passed)
		return deleted | (all | deleted) << PATH_ALL_SHIFT;
	*below = *used;
	return (all == PATH_CUT ? PATH_CUT : PATH_UNREACHABLE) | deleted |
	       (all | deleted) << PATH_ALL_SHIFT;
}

#endif
