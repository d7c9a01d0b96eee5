// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "events.bpf.h"
#include "filter.bpf.h"
#include "pinned.bpf.h"
#include "sock.bpf.h"
#include "syscall.bpf.h"
#include "tcpconnect.h"

#define SYS_CONNECT 3
#define TOLD_MAX 1024

/* 4 or 6 alone; 0: both. */
const volatile __u8 ip_version;
const volatile struct kscope_ports remote_ports;
const volatile bool counting;
const volatile bool count_local_ports;

/*
 * Connects whose result is to come, by the address of the socket: it is not freed before it was
 * told to have left TCP_SYN_SENT.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct tcpconnect_event);
} attempts SEC(".maps");

/*
 * Sockets with a failure that was reported, and of which their programs may not have heard yet:
 * only with errors that could be refusals too.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, TOLD_MAX);
	__type(key, __u64);
	__type(value, __u8);
} told SEC(".maps");

/* With -c; user space sets the size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct kscope_ends);
	__type(value, struct tcpconnect_count);
} counts SEC(".maps");

struct tcpconnect_event *tcpconnect_event_type __attribute__((unused));
enum tcpconnect_result *tcpconnect_result_type __attribute__((unused));

static __always_inline bool ends_pass(const struct kscope_ends *ends)
{
	if (ip_version && is_ipv4(ends->remote) != (ip_version == 4))
		return false;
	return ports_pass(&remote_ports, ends->remote_port);
}

static __always_inline void set_task(struct tcpconnect_event *event)
{
	SET_CURRENT(event);
	event->cgroup = bpf_get_current_cgroup_id();
}

static __always_inline void add(const struct tcpconnect_event *event)
{
	struct tcpconnect_count zero = {}, *sum;
	struct kscope_ends key = event->ends;

	if (!count_local_ports)
		key.local_port = 0;
	sum = bpf_map_lookup_elem(&counts, &key);
	if (!sum) {
		/* Where another CPU was faster, this fails and the next one finds it. */
		bpf_map_update_elem(&counts, &key, &zero, BPF_NOEXIST);
		sum = bpf_map_lookup_elem(&counts, &key);
	}
	if (!sum) {
		count(LOST_MAP_FULL);
		return;
	}
	__sync_fetch_and_add(&sum->connects, 1);
	if (event->result != TCPCONNECT_CONNECTED)
		__sync_fetch_and_add(&sum->failed, 1);
}

static __always_inline void report(struct tcpconnect_event *event)
{
	if (counting)
		add(event);
	else
		events_output(event, sizeof(*event), event->time_ns);
}

/* The task that connects runs. */
static __always_inline void on_begin(bool btf, const struct sock *sk)
{
	struct tcpconnect_event event = {};
	__u64 key = (__u64)sk;

	if (!filter_current() || !filter_current_pinned())
		return;
	sock_ends(btf, sk, &event.ends);
	if (!ends_pass(&event.ends))
		return;
	set_task(&event);
	event.time_ns = bpf_ktime_get_boot_ns();
	if (bpf_map_update_elem(&attempts, &key, &event, BPF_ANY)) {
		if (!counting)
			count(GENERATED);
		count(LOST_MAP_FULL);
	}
}

/* Whether connect() itself has not come so far that it would wait for an answer. */
static __always_inline bool is_starting(bool btf, const struct sock *sk)
{
	struct socket *sock = FIELD(btf, sk, sk_socket);

	return sock && BPF_CORE_READ(sock, state) == SS_UNCONNECTED;
}

/*
 * Whether an error of connect() may mean that this call sent nothing. The others say that there is
 * no such socket or address; that an answer is to come, or came before; or what became of an
 * attempt or of a connection, which its own events tell.
 */
static __always_inline bool is_refusal(int error)
{
	switch (error) {
	case 4:	  /* EINTR */
	case 9:	  /* EBADF */
	case 14:  /* EFAULT */
	case 32:  /* EPIPE */
	case 88:  /* ENOTSOCK */
	case 103: /* ECONNABORTED */
	case 104: /* ECONNRESET */
	case 106: /* EISCONN */
	case 110: /* ETIMEDOUT */
	case 111: /* ECONNREFUSED */
	case 114: /* EALREADY */
	case 115: /* EINPROGRESS */
	case 512: /* ERESTARTSYS */
		return false;
	}
	return true;
}

static __always_inline void on_end(bool btf, const struct sock *sk, int to)
{
	__u64 key = (__u64)sk;
	struct tcpconnect_event *attempt = bpf_map_lookup_elem(&attempts, &key);
	struct tcpconnect_event event;
	__u64 now;
	__u8 one = 1;

	if (!attempt)
		return;
	event = *attempt;
	bpf_map_delete_elem(&attempts, &key);
	if (to == BPF_TCP_ESTABLISHED) {
		event.result = TCPCONNECT_CONNECTED;
	} else {
		event.error = FIELD(btf, sk, sk_err);
		/* No port was free, or the packet could not be sent: the call tells when it
		 * returns. */
		if (!event.error && is_starting(btf, sk))
			return;
		/* An error that is gone already was asked for by a task before it came to be seen
		 * here. */
		event.result = event.error || !sock_owned_by_task(btf, sk) ? TCPCONNECT_FAILED
									   : TCPCONNECT_ABANDONED;
		if (event.error && is_refusal(event.error))
			bpf_map_update_elem(&told, &key, &one, BPF_ANY);
	}
	now = bpf_ktime_get_boot_ns();
	event.latency_ns = now - event.time_ns;
	event.time_ns = now;
	sock_ends(btf, sk, &event.ends);
	report(&event);
}

static __always_inline int on_state(bool btf, const struct sock *sk, int from, int to)
{
	/* Both sides may connect to each other: TCP_SYN_RECV is then between the two. */
	bool begins = to == BPF_TCP_SYN_SENT;
	bool ends = (from == BPF_TCP_SYN_SENT || from == BPF_TCP_SYN_RECV) &&
		    (to == BPF_TCP_ESTABLISHED || to == BPF_TCP_CLOSE);

	if ((!begins && !ends) || FIELD(btf, sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	if (begins)
		on_begin(btf, sk);
	else
		on_end(btf, sk, to);
	return 0;
}

SOCK_STATE_HOOK(state, on_state)

/* connect() returns an error to the running task. */
static __always_inline int on_return(int fd, const void *address, int error)
{
	struct tcpconnect_event event = {};
	struct sock *sk;
	__u64 key;

	if (!is_refusal(error) || !filter_current() || !filter_current_pinned())
		return 0;
	sk = sock_of_fd(fd);
	if (!sk || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	key = (__u64)sk;
	/*
	 * The error of an attempt that was reported: the socket has sent something since, unless
	 * the note is of another one that was at the same address.
	 */
	if (!bpf_map_delete_elem(&told, &key) &&
	    BPF_CORE_READ((const struct tcp_sock *)sk, write_seq))
		return 0;
	sock_ends(false, sk, &event.ends);
	if (!ends_of_sockaddr(&event.ends, address)) {
		/* What was passed is no address: all zero. */
		if (ip_version || remote_ports.some)
			return 0;
		__builtin_memset(event.ends.remote, 0, sizeof(event.ends.remote));
		event.ends.remote_port = 0;
	} else if (!ends_pass(&event.ends)) {
		return 0;
	}
	set_task(&event);
	event.time_ns = bpf_ktime_get_boot_ns();
	event.result = TCPCONNECT_FAILED;
	event.error = error;
	report(&event);
	return 0;
}

static __always_inline int on_sys_exit(bool btf, struct pt_regs *regs, long ret)
{
	int nr = SYSCALL_NR(btf, regs);
	__u32 args[2] = {};
	bool compat;

	if (ret >= 0 || (nr != NR_CONNECT && nr != NR_COMPAT_CONNECT && nr != NR_COMPAT_SOCKETCALL))
		return 0;
	compat = SYSCALL_IS_COMPAT();
	if (nr == (compat ? NR_COMPAT_CONNECT : NR_CONNECT))
		return on_return(SYSCALL_ARG1(btf, regs, compat),
				 (void *)SYSCALL_ARG2(btf, regs, compat), -ret);
	if (!compat || nr != NR_COMPAT_SOCKETCALL || SYSCALL_ARG1(btf, regs, true) != SYS_CONNECT)
		return 0;
	if (bpf_probe_read_user(args, sizeof(args), (void *)(__u64)SYSCALL_ARG2(btf, regs, true)))
		return 0;
	return on_return(args[0], (void *)(__u64)args[1], -ret);
}

SYS_EXIT_HOOK(refused, on_sys_exit)

SEC("fexit/__sys_connect")
int BPF_PROG(refused__fexit, int fd, struct sockaddr *address, int len, int ret)
{
	return ret < 0 ? on_return(fd, address, -ret) : 0;
}
