// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "kscope.bpf.h"
#include "events.bpf.h"
#include "filter.bpf.h"
#include "sock.bpf.h"
#include "tcplife.h"

#define PF_KTHREAD 0x00200000
#define SHUTDOWN_MASK 3

/* 4 or 6 alone; 0: both. */
const volatile __u8 ip_version;
const volatile struct kscope_ports local_ports;
const volatile struct kscope_ports remote_ports;

struct tcplife_connection {
	__u64 began_ns; /* when it was established; 0: not yet, or before the tool was there */
	__u64 cgroup;	/* of the owner, as what follows */
	__u32 tgid;	/* 0: not known yet */
	__u32 uid;
	__u8 comm[16];
	__u8 side;
	__u8 passes; /* whether the owner passes the filters */
	__u8 pad[6];
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
 * told yet: whoever closes the socket later is the owner.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct tcplife_event);
} unowned SEC(".maps");

struct tcplife_event *tcplife_event_type __attribute__((unused));
enum tcplife_side *tcplife_side_type __attribute__((unused));

static __always_inline void keep(__u64 key, const struct tcplife_connection *connection)
{
	if (bpf_map_update_elem(&connections, &key, connection, BPF_ANY))
		count(DROPPED_MAP_FULL);
}

/* The running task is the one that uses the socket. */
static __always_inline void set_owner(struct tcplife_connection *connection)
{
	connection->tgid = current_pids() >> 32;
	connection->uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(connection->comm, sizeof(connection->comm));
	connection->cgroup = bpf_get_current_cgroup_id();
	connection->passes = filter_current();
}

/*
 * An accepted connection becomes known to its task at the latest when that shuts it down or closes
 * it. Not so where a thread of the kernel does, which closes what others have left to it.
 */
static __always_inline void learn_owner(bool btf, const struct sock *sk,
					struct tcplife_connection *connection)
{
	if (!connection->tgid && sock_owned_by_task(btf, sk) && !(CURRENT(flags) & PF_KTHREAD))
		set_owner(connection);
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
	new.began_ns = bpf_ktime_get_boot_ns();
	new.side = from == BPF_TCP_SYN_SENT ? TCPLIFE_CONNECTED : TCPLIFE_ACCEPTED;
	keep(key, &new);
}

static __always_inline void on_shutdown(bool btf, const struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct tcplife_connection *known = bpf_map_lookup_elem(&connections, &key);
	struct tcplife_connection new = {};

	if (known) {
		learn_owner(btf, sk, known);
		return;
	}
	learn_owner(btf, sk, &new);
	if (new.tgid)
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
	if (connection.tgid && !connection.passes)
		return;
	event.time_ns = bpf_ktime_get_boot_ns();
	if (connection.began_ns)
		event.duration_ns = event.time_ns - connection.began_ns;
	event.tgid = connection.tgid;
	event.uid = connection.uid;
	event.cgroup = connection.cgroup;
	__builtin_memcpy(event.comm, connection.comm, sizeof(event.comm));
	event.side = connection.side;
	event.ends = *ends;
	set_bytes(&event, sk, from);
	/*
	 * Where there is no room, the owner stays unknown. By a probe read: for a typed load of a
	 * pointer the verifier looks through all types by name, which takes a millisecond.
	 */
	if (!event.tgid && BPF_CORE_READ(sk, sk_socket) &&
	    !bpf_map_update_elem(&unowned, &key, &event, BPF_ANY))
		return;
	if (event.tgid || filter_is_empty())
		events_output(&event, sizeof(event), event.time_ns);
}

/* The socket of a connection that has ended already is closed by the running task. */
static __always_inline int on_destroy(const struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct tcplife_event *ended = bpf_map_lookup_elem(&unowned, &key);
	struct tcplife_event event;
	bool passes = filter_is_empty();

	if (!ended)
		return 0;
	event = *ended;
	bpf_map_delete_elem(&unowned, &key);
	if (!(CURRENT(flags) & PF_KTHREAD)) {
		event.tgid = current_pids() >> 32;
		event.uid = bpf_get_current_uid_gid();
		event.cgroup = bpf_get_current_cgroup_id();
		bpf_get_current_comm(event.comm, sizeof(event.comm));
		passes = filter_current();
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

	if (to != BPF_TCP_SYN_SENT && to != BPF_TCP_ESTABLISHED && to != BPF_TCP_FIN_WAIT1 &&
	    to != BPF_TCP_LAST_ACK && to != BPF_TCP_CLOSE)
		return 0;
	if (to == BPF_TCP_CLOSE && (from == BPF_TCP_LISTEN || from == BPF_TCP_CLOSE))
		return 0;
	if (FIELD(btf, sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	sock_ends(btf, sk, &ends);
	if (!ends_pass(&ends)) {
		/* The port that was chosen since may be one that nobody asked for. */
		if (to == BPF_TCP_CLOSE && local_ports.some)
			bpf_map_delete_elem(&connections, &key);
		return 0;
	}
	switch (to) {
	case BPF_TCP_SYN_SENT:
		new.side = TCPLIFE_CONNECTED;
		set_owner(&new);
		keep(key, &new);
		break;
	case BPF_TCP_ESTABLISHED:
		on_established(sk, from);
		break;
	case BPF_TCP_CLOSE:
		on_close(btf, sk, from, &ends);
		break;
	default:
		on_shutdown(btf, sk);
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
