// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "cgroup_names.bpf.h"
#include "events.bpf.h"
#include "filter.bpf.h"
#include "pinned.bpf.h"
#include "sock.bpf.h"
#include "syscall.bpf.h"
#include "turns.bpf.h"
#include "uring.bpf.h"
#include "tcpconnect.h"

#define SYS_CONNECT 3
#define PF_KTHREAD 0x00200000
#define TOLD_MAX 8192

/* 4 or 6 alone; 0: both. */
const volatile __u8 ip_version;
const volatile struct kscope_ports remote_ports;
const volatile bool counting;
const volatile bool count_local_ports;
/* Nobody asks which connects sent nothing. */
const volatile bool sent_only;

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
 * only with errors that could be refusals too. The end of the socket ends the entry.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, TOLD_MAX);
	__type(key, __u64);
	__type(value, __u8);
} told SEC(".maps");

/* With -c; user space sets the size. */
TURNS(struct tcpconnect_key, struct tcpconnect_count, 1)

EVENT(tcpconnect_event);
struct tcpconnect_key *tcpconnect_key_type __attribute__((unused));
enum tcpconnect_result *tcpconnect_result_type __attribute__((unused));

/* By what the packets are, and by either port where there are two. */
static __always_inline bool passes(const struct tcpconnect_event *event)
{
	if (ip_version && is_ipv4(event->ends.remote) != (ip_version == 4))
		return false;
	return ports_pass(&remote_ports, event->ends.remote_port) ||
	       (event->is_moved && ports_pass(&remote_ports, event->asked_port));
}

static __always_inline bool wants_current(void)
{
	struct task_struct *owner = uring_current_owner();

	return (owner ? filter_task(false, owner) : filter_current()) && filter_current_pinned();
}

/* The running task connects, or a thread of io_uring for another one. */
static __always_inline void set_task(struct tcpconnect_event *event)
{
	struct task_struct *owner = uring_current_owner();

	record_current(&event->task, current_task());
	if (owner) {
		event->task.tid = task_pids(false, owner);
		BPF_CORE_READ_INTO(&event->task.comm, owner, comm);
	}
}

static __always_inline void add(const struct tcpconnect_event *event)
{
	struct tcpconnect_count zero = {}, *sum;
	struct tcpconnect_key key = {
		.ends = event->ends,
		.place = event->place,
		.asked_port = event->asked_port,
		.is_moved = event->is_moved,
	};

	__builtin_memcpy(key.asked, event->asked, sizeof(key.asked));
	key.place.mptcp = 0;
	if (!count_local_ports)
		key.ends.local_port = 0;
	sum = turns_value(&key, &zero);
	if (!sum)
		return;
	__sync_fetch_and_add(&sum->connects, 1);
	if (event->result != TCPCONNECT_CONNECTED)
		__sync_fetch_and_add(&sum->failed, 1);
}

static __always_inline void report(struct tcpconnect_event *event)
{
	if (counting)
		add(event);
	else
		events_output(event, sizeof(*event), event->task.time_ns);
}

/* What the running system call asked to be connected to. Returns whether that is known. */
static __always_inline bool read_asked(__u8 *address, __u16 *port)
{
	struct pt_regs *regs = current_regs();
	bool compat = SYSCALL_IS_COMPAT();
	int nr = SYSCALL_NR(false, regs);
	__u64 user = 0;
	__u32 args[2] = {};

	if (CURRENT(flags) & (PF_KTHREAD | PF_IO_WORKER))
		return false;
	if (nr == (compat ? NR_COMPAT_CONNECT : NR_CONNECT)) {
		user = SYSCALL_ARG2(false, regs, compat);
	} else if (compat) {
		if (nr != NR_COMPAT_SOCKETCALL || SYSCALL_ARG1(false, regs, true) != SYS_CONNECT)
			return false;
		bpf_probe_read_user(args, sizeof(args),
				    (void *)(__u64)SYSCALL_ARG2(false, regs, true));
		user = args[1];
	} else if (nr == NR_SENDTO) {
		user = SYSCALL_ARG5(false, regs, false);
	} else if (nr == NR_SENDMSG) {
		bpf_probe_read_user(&user, sizeof(user), (void *)SYSCALL_ARG2(false, regs, false));
	}
	return user && read_sockaddr((void *)user, address, port);
}

static __always_inline bool is_same_address(const __u8 *a, const __u8 *b)
{
	for (int i = 0; i < 16; i++)
		if (a[i] != b[i])
			return false;
	return true;
}

/* Programs of cgroups may put another address in place of a service's, as those of Cilium do. */
static __always_inline void set_asked(struct tcpconnect_event *event)
{
	if (!read_asked(event->asked, &event->asked_port))
		return;
	event->is_moved = event->asked_port != event->ends.remote_port ||
			  !is_same_address(event->asked, event->ends.remote);
	if (!event->is_moved) {
		__builtin_memset(event->asked, 0, sizeof(event->asked));
		event->asked_port = 0;
	}
}

/* The task that connects runs. */
static __always_inline void on_begin(bool btf, const struct sock *sk)
{
	struct tcpconnect_event event = {};
	__u64 key = (__u64)sk;

	if (!wants_current())
		return;
	sock_ends(btf, sk, &event.ends);
	set_asked(&event);
	if (!passes(&event))
		return;
	set_task(&event);
	sock_place(btf, sk, &event.ends, &event.place);
	event.task.time_ns = bpf_ktime_get_boot_ns();
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

/*
 * With TCP_FASTOPEN_CONNECT the first packet may go out long after connect(): with the first data.
 * Then the kernel's first round-trip time tells, which it has measured from that packet to the
 * answer by now, unless it had to send the packet again.
 */
static __always_inline __u64 latency(const struct sock *sk, __u64 begun_ns, __u64 now)
{
	const struct tcp_sock *tp = (const struct tcp_sock *)sk;

	if (bpf_core_field_exists(tp->fastopen_connect) &&
	    BPF_CORE_READ_BITFIELD_PROBED(tp, fastopen_connect))
		return (BPF_CORE_READ(tp, srtt_us) >> 3) * 1000ULL;
	return now - begun_ns;
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
		/* Without a note, the program's next call would be taken for another failure. */
		if (!sent_only && event.error && is_refusal(event.error) &&
		    bpf_map_update_elem(&told, &key, &one, BPF_ANY))
			count(DROPPED_MAP_FULL);
	}
	now = bpf_ktime_get_boot_ns();
	event.latency_ns = latency(sk, event.task.time_ns, now);
	event.task.time_ns = now;
	sock_ends(btf, sk, &event.ends);
	report(&event);
}

static __always_inline int on_state(bool btf, const struct sock *sk, int from, int to)
{
	/* Both sides may connect to each other: TCP_SYN_RECV is then between the two, and may end
	 * by a close() of this one too. */
	bool begins = to == BPF_TCP_SYN_SENT;
	bool ends = (from == BPF_TCP_SYN_SENT || from == BPF_TCP_SYN_RECV) &&
		    (to == BPF_TCP_ESTABLISHED || to == BPF_TCP_CLOSE || to == BPF_TCP_FIN_WAIT1);

	if ((!begins && !ends) || FIELD(btf, sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	if (begins)
		on_begin(btf, sk);
	else
		on_end(btf, sk, to);
	return 0;
}

SOCK_STATE_HOOK(state, on_state)

static __always_inline int on_destroy(struct sock *sk)
{
	__u64 key = (__u64)sk;

	bpf_map_delete_elem(&told, &key);
	return 0;
}

TRACEPOINT_HOOK(destroy, "tcp_destroy_sock", on_destroy((struct sock *)ctx[0]))

SEC("tp/tcp/tcp_destroy_sock")
int destroy__tp(struct trace_event_raw_tcp_event_sk *ctx)
{
	return on_destroy((struct sock *)ctx->skaddr);
}

/* The TCP socket, perhaps MPTCP's first one, of a program's socket; NULL: there is none. */
static __always_inline struct sock *tcp_of(struct sock *sk)
{
	struct mptcp_sock *mptcp = (struct mptcp_sock *)sk;
	__u16 protocol = BPF_CORE_READ(sk, sk_protocol);

	if (protocol == IPPROTO_MPTCP && bpf_core_field_exists(mptcp->first))
		return BPF_CORE_READ(mptcp, first);
	return protocol == IPPROTO_TCP ? sk : NULL;
}

/* connect() returns an error to the running task. */
static __always_inline int on_return(int fd, const void *address, int error)
{
	struct tcpconnect_event event = {};
	struct sock *sk;
	__u64 key;

	if (!is_refusal(error) || !wants_current())
		return 0;
	sk = sock_of_fd(fd);
	if (sk)
		sk = tcp_of(sk);
	if (!sk)
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
	if (!read_sockaddr(address, event.ends.remote, &event.ends.remote_port)) {
		/* What was passed is no address: all zero. */
		if (ip_version || remote_ports.some)
			return 0;
		__builtin_memset(event.ends.remote, 0, sizeof(event.ends.remote));
		event.ends.remote_port = 0;
	} else if (!passes(&event)) {
		return 0;
	}
	sock_place(false, sk, &event.ends, &event.place);
	set_task(&event);
	event.task.time_ns = bpf_ktime_get_boot_ns();
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
