// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "cgroup_names.bpf.h"
#include "events.bpf.h"
#include "filter.bpf.h"
#include "sock.bpf.h"
#include "uring.bpf.h"
#include "tcplife.h"

#define PF_KTHREAD 0x00200000
#define SHUTDOWN_MASK 3
#define SUBFLOWS_MAX 8 /* the kernel's MPTCP_PM_ADDR_MAX */

/* 4 or 6 alone; 0: both. */
const volatile __u8 ip_version;
const volatile struct kscope_ports local_ports;
const volatile struct kscope_ports remote_ports;

struct tcplife_connection {
	__u64 began_ns; /* when it was established; 0: not yet, or before the tool was there */
	struct kscope_task owner;
	__u8 side;
	__u8 passes; /* whether the owner passes the filters */
	__u8 pad[2];
	__u32 mptcp; /* the token, which the kernel may have forgotten at the end */
};

/*
 * By the address of the socket. That is as good as its cookie, which kernels before 5.12 do not
 * make for tracers: no socket is freed before it was told to be in TCP_CLOSE, which ends the entry.
 * User space sets the size.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct tcplife_connection);
} connections SEC(".maps");

/*
 * Connections that the other side has ended while somebody still has them open, which nothing has
 * told yet: whoever closes the socket later is the owner. User space sets the size.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct tcplife_event);
} unowned SEC(".maps");

EVENT(tcplife_event);
enum tcplife_side *tcplife_side_type __attribute__((unused));

static __always_inline void keep(__u64 key, const struct tcplife_connection *connection)
{
	if (bpf_map_update_elem(&connections, &key, connection, BPF_ANY))
		count(DROPPED_MAP_FULL);
}

static __always_inline void set_owner(struct tcplife_connection *connection,
				      struct task_struct *task)
{
	record_task(&connection->owner, false, task);
	connection->passes = filter_task(false, task);
}

/* The running task is the one that uses the socket, or a thread of io_uring for that. */
static __always_inline void set_owner_to_current(struct tcplife_connection *connection)
{
	struct task_struct *owner = uring_current_owner();

	if (owner) {
		set_owner(connection, owner);
		return;
	}
	record_current(&connection->owner, current_task());
	connection->passes = filter_current();
}

/* Not a thread of the kernel, which closes what others have left to it. */
static __always_inline bool current_may_own(void)
{
	return !(CURRENT(flags) & PF_KTHREAD);
}

/*
 * An accepted connection becomes known to its task at the latest when that shuts it down or closes
 * it.
 */
static __always_inline void learn_owner(bool btf, const struct sock *sk,
					struct tcplife_connection *connection)
{
	if (!connection->owner.tgid && sock_owned_by_task(btf, sk) && current_may_own())
		set_owner_to_current(connection);
}

static __always_inline void set_event_owner(struct tcplife_event *event,
					    const struct tcplife_connection *connection)
{
	__u64 ended_ns = event->task.time_ns;

	event->task = connection->owner;
	event->task.time_ns = ended_ns;
}

/* What is known of an owner goes to a connection without one. */
static __always_inline void hand_over(const struct tcplife_connection *from, __u64 key, bool is_new)
{
	struct tcplife_connection *known = bpf_map_lookup_elem(&connections, &key);
	struct tcplife_event *ended;

	if (!known) {
		if (is_new)
			keep(key, from);
	} else if (!known->owner.tgid) {
		known->owner = from->owner;
		known->passes = from->passes;
	}
	ended = bpf_map_lookup_elem(&unowned, &key);
	if (!ended || ended->task.tgid)
		return;
	if (from->passes)
		set_event_owner(ended, from);
	else
		bpf_map_delete_elem(&unowned, &key);
}

/*
 * The running task shuts an MPTCP socket down. Its subflows, which are the connections, end later,
 * by threads of the kernel.
 */
static __always_inline void hand_to_subflows(struct mptcp_sock *mptcp,
					     const struct tcplife_connection *from)
{
	struct list_head *head, *node;
	struct sock *subflow;

	if (!bpf_core_field_exists(mptcp->conn_list))
		return;
	head = __builtin_preserve_access_index(&mptcp->conn_list);
	node = BPF_CORE_READ(mptcp, conn_list.next);
	for (int i = 0; i < SUBFLOWS_MAX && node && node != head; i++) {
		subflow = BPF_CORE_READ((struct mptcp_subflow_context *)node, tcp_sock);
		hand_over(from, (__u64)subflow,
			  BPF_CORE_READ(subflow, __sk_common.skc_state) != BPF_TCP_CLOSE);
		node = BPF_CORE_READ(node, next);
	}
}

/* What the arguments ask for. A port that is not known yet passes. */
static __always_inline bool ends_pass(const struct kscope_ends *ends)
{
	if (ip_version && is_ipv4(ends->remote) != (ip_version == 4))
		return false;
	if (ends->local_port && !ports_pass(&local_ports, ends->local_port))
		return false;
	return ports_pass(&remote_ports, ends->remote_port);
}

static __always_inline void on_established(const struct sock *sk, int from)
{
	__u64 key = (__u64)sk;
	struct tcplife_connection *known = bpf_map_lookup_elem(&connections, &key);
	struct tcplife_connection new = {};

	/* One that has begun already is another socket's, of which the end was missed. */
	if (known && !known->began_ns) {
		known->began_ns = bpf_ktime_get_boot_ns();
		return;
	}
	new.mptcp = sock_mptcp_token(sk);
	new.began_ns = bpf_ktime_get_boot_ns();
	new.side = from == BPF_TCP_SYN_SENT ? TCPLIFE_CONNECTED : TCPLIFE_ACCEPTED;
	keep(key, &new);
}

static __always_inline void on_shutdown(bool btf, const struct sock *sk, int from)
{
	__u64 key = (__u64)sk;
	struct tcplife_connection *known = bpf_map_lookup_elem(&connections, &key);
	struct tcplife_connection new = {};

	if (known) {
		learn_owner(btf, sk, known);
		return;
	}
	learn_owner(btf, sk, &new);
	/* TCP fast open: it is served before it is established. */
	if (from == BPF_TCP_SYN_RECV)
		new.side = TCPLIFE_ACCEPTED;
	if (new.owner.tgid)
		keep(key, &new);
}

/*
 * The bytes that the other side has acknowledged, and those that it sent and that came in order.
 * The kernel's counts include what SYN and FIN take in sequence numbers.
 */
static __always_inline void set_bytes(struct tcplife_event *event, const struct sock *sk, int from)
{
	const struct tcp_sock *tp = (const struct tcp_sock *)sk;
	bool fin_sent = from == BPF_TCP_FIN_WAIT1 || from == BPF_TCP_FIN_WAIT2 ||
			from == BPF_TCP_CLOSING || from == BPF_TCP_LAST_ACK;
	__u64 sent = BPF_CORE_READ(tp, bytes_acked);
	__u64 received = BPF_CORE_READ(tp, bytes_received);
	bool syn_sent = event->side == TCPLIFE_CONNECTED;

	if (fin_sent && sent && BPF_CORE_READ(tp, snd_una) == BPF_CORE_READ(tp, write_seq))
		sent--;
	if (event->side == TCPLIFE_SIDE_UNKNOWN)
		/* It began before the tool: the SYN is what was not sent as data. */
		syn_sent = sent > BPF_CORE_READ(tp, bytes_sent) - BPF_CORE_READ(tp, bytes_retrans);
	if (syn_sent && sent)
		sent--;
	/* tcp_fin() marks the socket as done. */
	if (received && BPF_CORE_READ(sk, __sk_common.skc_flags) >> SOCK_DONE & 1)
		received--;
	event->sent = sent;
	event->received = received;
}

static __always_inline void on_close(bool btf, const struct sock *sk, int from,
				     const struct kscope_ends *ends)
{
	__u64 key = (__u64)sk;
	struct tcplife_connection *known = bpf_map_lookup_elem(&connections, &key);
	struct tcplife_connection connection = {};
	struct tcplife_event event = {};

	if (known) {
		connection = *known;
		bpf_map_delete_elem(&connections, &key);
	}
	/* Failed to connect, or to be accepted: there was no connection. */
	if (from == BPF_TCP_SYN_SENT || (from == BPF_TCP_SYN_RECV && !connection.began_ns))
		return;
	/* close() itself, and not a reset that came: tcp_done() shuts the socket down later. */
	if ((from == BPF_TCP_ESTABLISHED || from == BPF_TCP_CLOSE_WAIT) &&
	    (FIELD(btf, sk, sk_shutdown) & SHUTDOWN_MASK) == SHUTDOWN_MASK)
		learn_owner(btf, sk, &connection);
	if (connection.owner.tgid && !connection.passes)
		return;
	event.task = connection.owner;
	event.task.time_ns = bpf_ktime_get_boot_ns();
	if (connection.began_ns)
		event.duration_ns = event.task.time_ns - connection.began_ns;
	event.side = connection.side;
	event.ends = *ends;
	sock_place(btf, sk, ends, &event.place);
	if (connection.mptcp)
		event.place.mptcp = connection.mptcp;
	set_bytes(&event, sk, from);
	/* By a probe read, as in sock_place(). */
	if (!event.task.tgid && BPF_CORE_READ(sk, sk_socket)) {
		if (!bpf_map_update_elem(&unowned, &key, &event, BPF_ANY))
			return;
		/* It may be one of those that were asked for, which nobody will know. */
		if (!filter_is_empty()) {
			count(GENERATED);
			count(LOST_MAP_FULL);
			return;
		}
		count(DROPPED_MAP_FULL);
	}
	if (event.task.tgid || filter_is_empty())
		events_output(&event, sizeof(event), event.task.time_ns);
}

/* The socket of a connection that has ended already is closed by the running task. */
static __always_inline int on_destroy(const struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct tcplife_event *ended = bpf_map_lookup_elem(&unowned, &key);
	struct tcplife_connection closer = {};
	struct tcplife_event event;
	bool passes;

	if (!ended)
		return 0;
	event = *ended;
	bpf_map_delete_elem(&unowned, &key);
	passes = event.task.tgid || filter_is_empty();
	if (!event.task.tgid && current_may_own()) {
		set_owner_to_current(&closer);
		set_event_owner(&event, &closer);
		passes = closer.passes;
	}
	if (passes)
		events_output(&event, sizeof(event), bpf_ktime_get_boot_ns());
	return 0;
}

static __always_inline int on_state(bool btf, const struct sock *sk, int from, int to)
{
	struct tcplife_connection new = {};
	struct kscope_ends ends = {};
	__u64 key = (__u64)sk;
	__u16 protocol;

	if (to != BPF_TCP_SYN_SENT && to != BPF_TCP_ESTABLISHED && to != BPF_TCP_FIN_WAIT1 &&
	    to != BPF_TCP_LAST_ACK && to != BPF_TCP_CLOSE)
		return 0;
	if (to == BPF_TCP_CLOSE && (from == BPF_TCP_LISTEN || from == BPF_TCP_CLOSE))
		return 0;
	protocol = FIELD(btf, sk, sk_protocol);
	if (protocol == IPPROTO_MPTCP && to != BPF_TCP_SYN_SENT && to != BPF_TCP_ESTABLISHED) {
		learn_owner(btf, sk, &new);
		if (new.owner.tgid)
			hand_to_subflows((struct mptcp_sock *)sk, &new);
	}
	if (protocol != IPPROTO_TCP)
		return 0;
	sock_ends(btf, sk, &ends);
	if (!ends_pass(&ends)) {
		/* The port that was chosen since may be one that nobody asked for. */
		if (to == BPF_TCP_CLOSE)
			bpf_map_delete_elem(&connections, &key);
		return 0;
	}
	switch (to) {
	case BPF_TCP_SYN_SENT:
		new.side = TCPLIFE_CONNECTED;
		new.mptcp = sock_mptcp_token(sk);
		/* A thread of the kernel makes further subflows of a program's MPTCP socket. */
		if (current_may_own() || !sock_mptcp(sk))
			set_owner_to_current(&new);
		keep(key, &new);
		break;
	case BPF_TCP_ESTABLISHED:
		on_established(sk, from);
		break;
	case BPF_TCP_CLOSE:
		on_close(btf, sk, from, &ends);
		break;
	default:
		on_shutdown(btf, sk, from);
	}
	return 0;
}

SOCK_STATE_HOOK(state, on_state)

TRACEPOINT_HOOK(destroy, "tcp_destroy_sock", on_destroy((struct sock *)ctx[0]))

SEC("tp/tcp/tcp_destroy_sock")
int destroy__tp(struct trace_event_raw_tcp_event_sk *ctx)
{
	return on_destroy(ctx->skaddr);
}

/*
 * io_uring has accepted a connection into a slot of the ring's own, which the end of the ring may
 * close: it belongs to whose ring it is.
 */
static __always_inline int on_uring_accept(struct io_ring_ctx *ring, struct io_kiocb *req,
					   int result)
{
	struct sock *sk = sock_of_file(uring_accepted(ring, req, result));
	struct tcplife_connection connection = {};
	struct task_struct *task;
	__u16 protocol;

	if (!sk)
		return 0;
	protocol = BPF_CORE_READ(sk, sk_protocol);
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP)
		return 0;
	if (req)
		task = uring_task(req);
	else if (current_may_own())
		task = (struct task_struct *)bpf_get_current_task();
	else
		return 0;
	set_owner(&connection, uring_owner(task));
	if (protocol == IPPROTO_MPTCP)
		hand_to_subflows((struct mptcp_sock *)sk, &connection);
	else
		hand_over(&connection, (__u64)sk, false);
	return 0;
}

TRACEPOINT_HOOK(uring_accept, "io_uring_complete",
		on_uring_accept((struct io_ring_ctx *)ctx[0], (struct io_kiocb *)ctx[1],
				URING_RESULT(ctx)))
