// SPDX-License-Identifier: Apache-2.0 OR MIT
//! GET /metrics over HTTP/1.1, on threads of its own: a few connections at a time, each with one request, of
//! bounded size and time.

use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::net::Shutdown;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::eventfd::EfdFlags;
use nix::sys::eventfd::EventFd;
use nix::sys::signal::SigSet;

use super::text;
use crate::Error;
use crate::say;

/// Connections that are served at a time; more wait in the kernel's queue.
const THREADS: usize = 4;
const STACK: usize = 256 << 10;
const REQUEST_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
/// For a client to send its request, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Numbers that are no older are good enough: a scraper more often costs nothing.
const FRESH: Duration = Duration::from_secs(1);
/// How long a scrape waits for new numbers, before it gets the last ones.
const NEWS: Duration = Duration::from_secs(5);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The server, as the tool sees it. Its threads end with the process.
pub(super) struct Server(Arc<Shared>);

struct Shared {
    tool: &'static str,
    published: Mutex<Published>,
    changed: Condvar,
    wake: EventFd,
}

#[derive(Default)]
struct Published {
    text: Arc<str>,
    taken: Option<Instant>,
    /// Whether asking brings new numbers.
    on_demand: bool,
    wanted: bool,
}

impl Server {
    /// Serve on this socket.
    pub fn start(tool: &'static str, listener: TcpListener) -> Result<Self, Error> {
        let what = |error| Error::System { what: "serving metrics".into(), error };
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let wake = wake.map_err(Error::system("serving metrics"))?;
        let shared = Arc::new(Shared { tool, published: Mutex::default(), changed: Condvar::new(), wake });
        let address = listener.local_addr().map_err(what)?;
        // Signals are for the tool's own thread, whose wait they end.
        let mask = SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK);
        let mask = mask.map_err(Error::system("serving metrics"))?;
        let started = (0..THREADS).try_for_each(|_| {
            let (listener, shared) = (listener.try_clone()?, Arc::clone(&shared));
            let thread = thread::Builder::new().name("metrics".into()).stack_size(STACK);
            thread.spawn(move || shared.serve(&listener)).map(drop)
        });
        mask.thread_set_mask().map_err(Error::system("serving metrics"))?;
        started.map_err(what)?;
        say(&format!("{tool}: metrics at http://{address}/metrics"));
        Ok(Self(shared))
    }

    /// What wakes the tool when numbers are wanted.
    pub fn wake(&self) -> &EventFd {
        &self.0.wake
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
        (published.text, published.taken, published.wanted) = (text.into(), Some(Instant::now()), false);
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present text, once it is new enough.
    fn text(&self) -> Arc<str> {
        let mut published = self.lock();
        if published.on_demand && published.taken.is_none_or(|taken| taken.elapsed() > FRESH) {
            published.wanted = true;
            // Full it can't be, as nobody adds but 1; the tool looks once a second anyway.
            _ = self.wake.write(1);
        }
        // The first text comes soon after the threads.
        let is_missing = |published: &mut Published| published.wanted || published.text.is_empty();
        let waited = self.changed.wait_timeout_while(published, NEWS, is_missing);
        let published = waited.unwrap_or_else(PoisonError::into_inner).0;
        Arc::clone(&published.text)
    }

    fn serve(&self, listener: &TcpListener) {
        loop {
            match listener.accept() {
                // A client that goes away or sends nonsense is no concern of the tool.
                Ok((stream, _)) => _ = self.answer(&stream),
                // No descriptors left, most likely: wait for better times.
                Err(_) => thread::sleep(FRESH),
            }
        }
    }

    fn answer(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let request = Request::read(stream)?;
        let (status, kind, text) = match &request {
            Request::Bad(status) => (*status, CLASSIC, String::new()),
            Request::Get { path, accept, .. } => match path.as_str() {
                "/metrics" if prefers_open_metrics(accept) => {
                    ("200 OK", OPEN_METRICS, self.text().to_string())
                }
                "/metrics" => ("200 OK", CLASSIC, text::classic(&self.text())),
                "/" => ("200 OK", CLASSIC, format!("{}: see /metrics\n", self.tool)),
                _ => ("404 Not Found", CLASSIC, String::new()),
            },
        };
        let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
            text.len()
        );
        stream.write_all(head.as_bytes())?;
        if !matches!(request, Request::Get { head: true, .. }) {
            stream.write_all(text.as_bytes())?;
        }
        stream.shutdown(Shutdown::Write)
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
    fn read(mut stream: &TcpStream) -> io::Result<Self> {
        let end = Instant::now() + PATIENCE;
        let mut bytes = Vec::new();
        let mut chunk = [0; 1024];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Self::Bad("408 Request Timeout"));
            }
            stream.set_read_timeout(Some(left))?;
            let length = match stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            bytes.extend_from_slice(&chunk[..length]);
            if let Some(request) = Self::parse(&bytes) {
                return Ok(request);
            }
            if bytes.len() > REQUEST_MAX {
                return Ok(Self::Bad("431 Request Header Fields Too Large"));
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
