// SPDX-License-Identifier: Apache-2.0 OR MIT
//! GET /metrics over HTTP/1.1, on a thread of its own that waits for nobody: some connections at a time, each with
//! one request, of bounded size and time. The oldest make room for a new one.

use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::net::Shutdown;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::eventfd::EfdFlags;
use nix::sys::eventfd::EventFd;
use nix::sys::signal::SigSet;

use super::text;
use crate::Error;
use crate::say;

const STACK: usize = 256 << 10;
/// Connections at a time, and of one host.
const CONNECTIONS: usize = 128;
const CONNECTIONS_OF_HOST: usize = 64;
const REQUEST_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
/// For a client to send its request.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a scrape waits for new numbers, before it gets the last ones.
const NEWS: Duration = Duration::from_secs(5);
/// For a client to take the answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Numbers that are no older are good enough: a scraper more often costs nothing.
const FRESH: Duration = Duration::from_secs(1);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The server, as the tool sees it. Its thread ends with the process.
pub(super) struct Server(Arc<Shared>);

struct Shared {
    tool: &'static str,
    published: Mutex<Published>,
    /// Wakes the tool.
    wanted: EventFd,
    /// Wakes the thread.
    news: EventFd,
}

#[derive(Default)]
struct Published {
    text: Arc<str>,
    classic: Option<Arc<str>>,
    taken: Option<Instant>,
    /// Whether asking brings new numbers.
    on_demand: bool,
    wanted: bool,
}

impl Server {
    /// Serve on this socket.
    pub fn start(tool: &'static str, listener: TcpListener) -> Result<Self, Error> {
        let what = |error| Error::System { what: "serving metrics".into(), error };
        let event = || {
            let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
            event.map_err(Error::system("serving metrics"))
        };
        let shared = Shared { tool, published: Mutex::default(), wanted: event()?, news: event()? };
        let shared = Arc::new(shared);
        let address = listener.local_addr().map_err(what)?;
        listener.set_nonblocking(true).map_err(what)?;
        // Signals are for the tool's own thread, whose wait they end.
        let mask = SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK);
        let mask = mask.map_err(Error::system("serving metrics"))?;
        let thread = thread::Builder::new().name("metrics".into()).stack_size(STACK);
        let own = Arc::clone(&shared);
        let started = thread.spawn(move || own.serve(&listener));
        mask.thread_set_mask().map_err(Error::system("serving metrics"))?;
        started.map_err(what)?;
        say(&format!("{tool}: metrics at http://{address}/metrics"));
        Ok(Self(shared))
    }

    /// What wakes the tool when numbers are wanted.
    pub fn wake(&self) -> &EventFd {
        &self.0.wanted
    }

    /// Whether a scrape waits for new numbers.
    pub fn is_wanted(&self) -> bool {
        self.0.lock().wanted
    }

    /// From now on, whoever asks gets new numbers.
    pub fn on_demand(&self) {
        let mut published = self.0.lock();
        (published.on_demand, published.taken) = (true, None);
    }

    /// Hand out this text from now on.
    pub fn publish(&self, text: String) {
        let mut published = self.0.lock();
        (published.text, published.classic) = (text.into(), None);
        (published.taken, published.wanted) = (Some(Instant::now()), false);
        // Full it can't be, as nobody adds but 1.
        _ = self.0.news.write(1);
    }
}

/// Whom connections are counted for: of IPv6, the network that a host has.
fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See to it that there is a text that is new enough.
    fn ask(&self) {
        let mut published = self.lock();
        if published.on_demand && published.taken.is_none_or(|taken| taken.elapsed() > FRESH) {
            published.wanted = true;
            // Full it can't be, as nobody adds but 1; the tool looks once a second anyway.
            _ = self.wanted.write(1);
        }
    }

    /// The text in this form; nothing while a new one is waited for, unless the `latest` is good enough.
    fn text(&self, open: bool, latest: bool) -> Option<Arc<str>> {
        let mut published = self.lock();
        // The first text comes soon after the thread.
        if !latest && (published.wanted || published.text.is_empty()) {
            return None;
        }
        if open {
            return Some(Arc::clone(&published.text));
        }
        let text = Arc::clone(&published.text);
        Some(Arc::clone(published.classic.get_or_insert_with(|| text::classic(&text).into())))
    }

    fn serve(&self, listener: &TcpListener) {
        let mut connections: Vec<Connection> = Vec::new();
        let mut accept_at = Instant::now();
        loop {
            let now = Instant::now();
            let ends = connections.iter().map(|connection| connection.deadline);
            let next = ends.chain((accept_at > now).then_some(accept_at)).min();
            let timeout = next.map_or(PollTimeout::NONE, |next| {
                let ms = next.saturating_duration_since(now).as_micros().div_ceil(1000);
                PollTimeout::from(u16::try_from(ms).unwrap_or(u16::MAX))
            });
            let accepts = if accept_at > now { PollFlags::empty() } else { PollFlags::POLLIN };
            let mut fds = vec![
                PollFd::new(listener.as_fd(), accepts),
                PollFd::new(self.news.as_fd(), PollFlags::POLLIN),
            ];
            fds.extend(connections.iter().map(Connection::awaited));
            if poll(&mut fds, timeout).is_err() {
                // Of memory there is none, most likely: wait for better times.
                thread::sleep(FRESH);
            }
            let came = |fd: &PollFd<'_>| fd.revents().unwrap_or(PollFlags::empty());
            let (is_new, is_news) = (!came(&fds[0]).is_empty(), !came(&fds[1]).is_empty());
            let came: Vec<PollFlags> = fds[2..].iter().map(came).collect();
            drop(fds);
            if is_news {
                // Nothing is read where another round has been quicker.
                _ = self.news.read();
            }
            let mut came = came.into_iter();
            // A client that goes away or sends nonsense is no concern of the tool.
            connections.retain_mut(|connection| {
                came.next().is_some_and(|came| connection.go_on(self, came).unwrap_or(false))
            });
            if is_new
                && let Err(error) = accept(listener, &mut connections)
                && error.kind() != io::ErrorKind::WouldBlock
            {
                // No descriptors left, most likely.
                accept_at = Instant::now() + FRESH;
            }
        }
    }
}

/// Take who waits, as many as there may be at a time.
fn accept(listener: &TcpListener, connections: &mut Vec<Connection>) -> io::Result<()> {
    for _ in 0..CONNECTIONS_OF_HOST {
        let (stream, address) = listener.accept()?;
        stream.set_nonblocking(true)?;
        let host = host(address.ip());
        let of = |host: IpAddr| connections.iter().filter(move |other| other.host == host).count();
        // Who has most makes room.
        let crowd = if of(host) >= CONNECTIONS_OF_HOST {
            Some(host)
        } else if connections.len() >= CONNECTIONS {
            connections.iter().map(|connection| connection.host).max_by_key(|host| of(*host))
        } else {
            None
        };
        if let Some(oldest) = crowd.and_then(|crowd| connections.iter().position(|c| c.host == crowd)) {
            connections.remove(oldest);
        }
        let deadline = Instant::now() + REQUEST;
        connections.push(Connection { stream, host, deadline, state: State::Reading(Vec::new()) });
    }
    Ok(())
}

/// A client; the oldest come first.
struct Connection {
    stream: TcpStream,
    host: IpAddr,
    /// When its state must have ended.
    deadline: Instant,
    state: State,
}

enum State {
    Reading(Vec<u8>),
    /// For new numbers, in this form.
    Waiting {
        open: bool,
        head: bool,
    },
    Writing {
        head: Vec<u8>,
        body: Arc<str>,
        sent: usize,
    },
}

impl Connection {
    fn awaited(&self) -> PollFd<'_> {
        let events = match self.state {
            State::Reading(_) => PollFlags::POLLIN,
            State::Waiting { .. } => PollFlags::empty(),
            State::Writing { .. } => PollFlags::POLLOUT,
        };
        PollFd::new(self.stream.as_fd(), events)
    }

    /// Do what can be done now: whether there is more to do later.
    fn go_on(&mut self, shared: &Shared, came: PollFlags) -> io::Result<bool> {
        let is_late = Instant::now() >= self.deadline;
        match &mut self.state {
            State::Reading(bytes) => {
                let request = if came.is_empty() { None } else { Request::read(&self.stream, bytes)? };
                match request {
                    Some(request) => self.answer(shared, &request),
                    None if is_late => self.answer(shared, &Request::Bad("408 Request Timeout")),
                    None => return Ok(true),
                }
            }
            State::Waiting { .. } if !came.is_empty() => return Ok(false),
            State::Waiting { open, head } => {
                let (open, head) = (*open, *head);
                let Some(text) = shared.text(open, is_late) else { return Ok(true) };
                self.write("200 OK", if open { OPEN_METRICS } else { CLASSIC }, text, head);
            }
            State::Writing { .. } if is_late => return Ok(false),
            State::Writing { .. } => (),
        }
        self.send()
    }

    fn answer(&mut self, shared: &Shared, request: &Request) {
        let (path, accept, head) = match request {
            Request::Bad(status) => return self.write(status, CLASSIC, "".into(), false),
            Request::Get { path, accept, head } => (path.as_str(), accept, *head),
        };
        match path {
            "/metrics" => {
                shared.ask();
                let open = prefers_open_metrics(accept);
                match shared.text(open, false) {
                    Some(text) => self.write("200 OK", if open { OPEN_METRICS } else { CLASSIC }, text, head),
                    None => {
                        self.deadline = Instant::now() + NEWS;
                        self.state = State::Waiting { open, head };
                    }
                }
            }
            "/" => {
                let text = format!("{}: see /metrics\n", shared.tool);
                self.write("200 OK", CLASSIC, text.into(), head);
            }
            _ => self.write("404 Not Found", CLASSIC, "".into(), head),
        }
    }

    fn write(&mut self, status: &str, kind: &str, text: Arc<str>, head: bool) {
        let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
        let length = text.len();
        let top = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{allow}Connection: close\r\n\r\n"
        );
        let body = if head { "".into() } else { text };
        self.deadline = Instant::now() + ANSWER;
        self.state = State::Writing { head: top.into(), body, sent: 0 };
    }

    /// Send what the client takes of the answer.
    fn send(&mut self) -> io::Result<bool> {
        let State::Writing { head, body, sent } = &mut self.state else { return Ok(true) };
        loop {
            let rest = match head.get(*sent..) {
                Some(rest) if !rest.is_empty() => rest,
                _ => body.as_bytes().get(*sent - head.len()..).unwrap_or_default(),
            };
            if rest.is_empty() {
                return self.stream.shutdown(Shutdown::Write).map(|()| false);
            }
            match self.stream.write(rest) {
                Ok(length) => *sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
    }
}

enum Request {
    Get {
        path: String,
        accept: String,
        head: bool,
    },
    /// The status that it is answered with.
    Bad(&'static str),
}

impl Request {
    /// Read what has come; the request, once it is there up to its end.
    fn read(mut stream: &TcpStream, bytes: &mut Vec<u8>) -> io::Result<Option<Self>> {
        let mut chunk = [0; 1024];
        loop {
            let length = match stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
            // An end that is cut in two is found by the bytes before.
            let seen = bytes.len().saturating_sub(2);
            let is_first = bytes.is_empty();
            bytes.extend_from_slice(&chunk[..length]);
            let new = &bytes[seen..];
            let may_end = new.windows(2).any(|w| w == b"\n\n") || new.windows(3).any(|w| w == b"\n\r\n");
            // Not each time: a client may send byte by byte.
            if (is_first || may_end)
                && let Some(request) = Self::parse(bytes)
            {
                return Ok(Some(request));
            }
            if bytes.len() > REQUEST_MAX {
                return Ok(Some(Self::Bad("431 Request Header Fields Too Large")));
            }
        }
    }

    /// The request, once it is there up to its end.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(bytes) {
            Ok(httparse::Status::Partial) => return None,
            Ok(httparse::Status::Complete(_)) => (),
            Err(httparse::Error::TooManyHeaders) => {
                return Some(Self::Bad("431 Request Header Fields Too Large"));
            }
            Err(_) => return Some(Self::Bad("400 Bad Request")),
        }
        let method = request.method.unwrap_or_default();
        if method != "GET" && method != "HEAD" {
            return Some(Self::Bad("405 Method Not Allowed"));
        }
        let accept = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("accept"));
        let accept: Vec<_> = accept.map(|header| String::from_utf8_lossy(header.value)).collect();
        let path = request.path.unwrap_or_default().split('?').next().unwrap_or_default();
        Some(Self::Get { path: path.into(), accept: accept.join(","), head: method == "HEAD" })
    }
}

/// What a client sent, and what it would have.
#[cfg(fuzzing)]
pub(crate) fn parse_request(bytes: &[u8]) {
    if let Some(Request::Get { accept, .. }) = Request::parse(bytes) {
        prefers_open_metrics(&accept);
    }
}

/// Whether an Accept header names OpenMetrics, and nothing that it likes better (RFC 9110, 12.5.1).
fn prefers_open_metrics(accept: &str) -> bool {
    let quality = |wanted: &str| {
        let kinds = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let found = parts.next()?.eq_ignore_ascii_case(wanted);
            let q = parts.find_map(|p| p.strip_prefix("q=").or(p.strip_prefix("Q="))).unwrap_or("1");
            found.then(|| q.parse::<f64>().unwrap_or(0.0))
        });
        kinds.fold(0.0, f64::max)
    };
    let open = quality("application/openmetrics-text");
    open > 0.0 && open >= quality("text/plain")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_ask_for_it() {
        for (accept, open) in [
            ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", true),
            ("application/openmetrics-text", true),
            ("text/plain;version=0.0.4;q=1,application/openmetrics-text;q=0.5", false),
            ("application/openmetrics-text;q=0", false),
            ("text/plain", false),
            ("*/*", false),
            ("", false),
            (";;;,,,q=q", false),
        ] {
            assert_eq!(prefers_open_metrics(accept), open, "{accept}");
        }
    }

    #[test]
    fn requests_are_get_or_bad() {
        let status = |text: &str| match Request::parse(text.as_bytes()) {
            None => "partial",
            Some(Request::Bad(status)) => &status[..3],
            Some(Request::Get { .. }) => "get",
        };
        assert_eq!(status("GET /metrics HT"), "partial");
        assert_eq!(status("GET /metrics HTTP/1.1\r\nHost: a\r\n"), "partial");
        assert_eq!(status("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"), "get");
        assert_eq!(status("HEAD / HTTP/1.0\r\n\r\n"), "get");
        assert_eq!(status("POST /metrics HTTP/1.1\r\n\r\n"), "405");
        assert_eq!(status("\x16\x03\x01 tls"), "400");
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65))), "431");
    }
}
