/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sockets: their ends, and lists of ports. */
#ifndef KSCOPE_SOCK_BPF_H
#define KSCOPE_SOCK_BPF_H

#include "kscope.bpf.h"
#include <bpf/bpf_endian.h>

#define AF_INET 2
#define AF_INET6 10
#define S_IFMT 0170000
#define S_IFSOCK 0140000

/*
 * The two ends of a socket. An IPv4 address is stored as IPv6 maps it, ::ffff:a.b.c.d, of whatever
 * family the socket is: so each has one form only. Ports are in the host's byte order.
 */
struct kscope_ends {
	__u8 local[16];
	__u8 remote[16];
	__u16 local_port;
	__u16 remote_port;
};

/* What tells sockets with the same ends apart, and what they are parts of. */
struct kscope_place {
	__u32 netns; /* the network namespace, by its inode; 0: the kernel has one only */
	__u32 scope; /* the interface's number, where an end is a link-local address; else 0 */
	__u32 mptcp; /* the token of the MPTCP connection that this is a subflow of, or 0 */
};

/* Ports that pass, one bit each: a list of any length costs the same. */
struct kscope_ports {
	__u64 bits[1024];
	__u32 some; /* whether there is a list: without one, all pass */
	__u32 pad;
};

static __always_inline bool ports_pass(const volatile struct kscope_ports *ports, __u16 port)
{
	__u32 word = port >> 6;

	if (!ports->some)
		return true;
	/* It is that small already, but the verifier must see it here. */
	barrier_var(word);
	return ports->bits[word & 1023] >> (port & 63) & 1;
}

static __always_inline void map_ipv4(__u8 *to, __be32 address)
{
	__builtin_memset(to, 0, 10);
	to[10] = 0xff;
	to[11] = 0xff;
	__builtin_memcpy(to + 12, &address, sizeof(address));
}

static __always_inline bool is_ipv4(const __u8 *address)
{
	for (int i = 0; i < 10; i++)
		if (address[i])
			return false;
	return address[10] == 0xff && address[11] == 0xff;
}

/*
 * The port that it is bound to, or 0. Not skc_num: tcp_set_state() clears that before it tells of
 * TCP_CLOSE.
 */
static __always_inline __u16 sock_local_port(const struct sock *sk)
{
	return bpf_ntohs(BPF_CORE_READ((const struct inet_sock *)sk, inet_sport));
}

/* The ends of an IPv4 or IPv6 socket. */
static __always_inline void sock_ends(bool btf, const struct sock *sk, struct kscope_ends *ends)
{
	if (FIELD(btf, sk, __sk_common.skc_family) == AF_INET6) {
		BPF_CORE_READ_INTO(&ends->local, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&ends->remote, sk, __sk_common.skc_v6_daddr);
	} else {
		map_ipv4(ends->local, FIELD(btf, sk, __sk_common.skc_rcv_saddr));
		map_ipv4(ends->remote, FIELD(btf, sk, __sk_common.skc_daddr));
	}
	ends->local_port = sock_local_port(sk);
	ends->remote_port = bpf_ntohs(FIELD(btf, sk, __sk_common.skc_dport));
}

static __always_inline bool is_link_local(const __u8 *address)
{
	return address[0] == 0xfe && (address[1] & 0xc0) == 0x80;
}

/* The MPTCP socket that the program has in place of this one of TCP, or NULL. */
static __always_inline struct mptcp_sock *sock_mptcp(const struct sock *sk)
{
	const struct tcp_sock *tp = (const struct tcp_sock *)sk;
	struct mptcp_subflow_context *subflow;

	if (!bpf_core_field_exists(tp->is_mptcp) || !BPF_CORE_READ(tp, is_mptcp))
		return NULL;
	subflow = BPF_CORE_READ((const struct inet_connection_sock *)sk, icsk_ulp_data);
	return (struct mptcp_sock *)BPF_CORE_READ(subflow, conn);
}

/* The token of the MPTCP connection that a TCP socket is a subflow of, or 0. */
static __always_inline __u32 sock_mptcp_token(const struct sock *sk)
{
	struct mptcp_sock *mptcp = sock_mptcp(sk);

	return mptcp ? BPF_CORE_READ(mptcp, token) : 0;
}

/* Of a TCP socket with these ends. */
static __always_inline void sock_place(bool btf, const struct sock *sk,
				       const struct kscope_ends *ends, struct kscope_place *place)
{
	/* By a probe read: for a typed load of a pointer the verifier looks through all types by
	 * name, which takes a millisecond. */
	if (bpf_core_field_exists(sk->__sk_common.skc_net.net))
		place->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	if (is_link_local(ends->remote) || is_link_local(ends->local))
		place->scope = FIELD(btf, sk, __sk_common.skc_bound_dev_if);
	place->mptcp = sock_mptcp_token(sk);
}

/*
 * Whether a task that uses the socket runs: it holds the socket's lock, which an interrupt that
 * finds it held leaves alone. Also some that list sockets do, but they change no state.
 */
static __always_inline bool sock_owned_by_task(bool btf, const struct sock *sk)
{
	return FIELD(btf, sk, sk_lock.owned);
}

/* The socket behind a file, or NULL. */
static __always_inline struct sock *sock_of_file(struct file *file)
{
	struct socket *sock;

	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return NULL;
	sock = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(sock, sk);
}

/* The socket behind a descriptor of the running task. */
static __always_inline struct sock *sock_of_fd(int fd)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct fdtable *fdt = BPF_CORE_READ(task, files, fdt);
	struct file **fds = BPF_CORE_READ(fdt, fd);
	struct file *file = NULL;

	if ((__u32)fd >= BPF_CORE_READ(fdt, max_fds))
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), fds + fd);
	return sock_of_file(file);
}

/* The address and the port that a caller passes in a struct sockaddr. Returns whether it is one. */
static __always_inline bool read_sockaddr(const void *user, __u8 *address, __u16 *port)
{
	struct sockaddr_in6 v6 = {};
	struct sockaddr_in v4 = {};
	__u16 family = 0;

	bpf_probe_read_user(&family, sizeof(family), user);
	if (family == AF_INET) {
		if (bpf_probe_read_user(&v4, sizeof(v4), user))
			return false;
		map_ipv4(address, v4.sin_addr.s_addr);
		*port = bpf_ntohs(v4.sin_port);
		return true;
	}
	/* Without the scope, which callers of old leave out. */
	if (family != AF_INET6 ||
	    bpf_probe_read_user(&v6, offsetof(struct sockaddr_in6, sin6_scope_id), user))
		return false;
	__builtin_memcpy(address, &v6.sin6_addr, sizeof(v6.sin6_addr));
	*port = bpf_ntohs(v6.sin6_port);
	return true;
}

/* The hook at each change of a TCP socket's state: handler(btf, sk, from, to). */
#define SOCK_STATE_HOOK(hook, handler)                                                             \
	TRACEPOINT_HOOK(hook, "inet_sock_set_state",                                               \
			handler(btf, (const struct sock *)ctx[0], (int)ctx[1], (int)ctx[2]))       \
	SEC("tp/sock/inet_sock_set_state")                                                         \
	int hook##__tp(struct trace_event_raw_inet_sock_set_state *ctx)                            \
	{                                                                                          \
		return handler(false, ctx->skaddr, ctx->oldstate, ctx->newstate);                  \
	}

#endif
