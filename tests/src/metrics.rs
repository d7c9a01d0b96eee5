// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Metrics, as a scraper gets and reads them.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::{DEADLINE, Tracer, wait_until};

/// The Accept header of a scraper that knows OpenMetrics.
pub const OPEN_METRICS: &str = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";

/// Where the tool serves its metrics, as it says on stderr.
pub fn address(tracer: &Tracer) -> String {
    wait_until("the address of the metrics", || {
        let stderr = tracer.stderr();
        let (_, rest) = stderr.split_once("metrics at http://")?;
        Some(rest.split_once("/metrics\n")?.0.to_string())
    })
}

/// The answer to a request, as it is: head and body.
///
/// # Panics
/// If there is no answer.
pub fn ask(address: &str, request: &[u8]) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    // It may be answered before it is sent to its end.
    _ = stream.write_all(request);
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    // A reset ends it as well: bytes that the server did not want to read cause one.
    while let Ok(length @ 1..) = stream.read(&mut chunk) {
        answer.extend_from_slice(&chunk[..length]);
    }
    let answer = String::from_utf8(answer).expect("an answer in UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.into(), body.into())
}

/// GET /metrics with these header lines: the head and the body.
///
/// # Panics
/// If the answer is not whole.
pub fn get(address: &str, headers: &str) -> (String, String) {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    let (head, body) = ask(address, request.as_bytes());
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let length = format!("Content-Length: {}", body.len());
    assert!(head.lines().any(|line| line == length), "{length}: {head}");
    (head, body)
}

/// The samples of a text in either form, by name and labels as they are written.
pub type Samples = BTreeMap<String, f64>;

/// Read a text, each line of which is checked: samples belong to the family above them, and none comes twice.
///
/// # Panics
/// If it is not valid.
pub fn parse(text: &str) -> Samples {
    let mut samples = Samples::new();
    let mut family = ("", "");
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "TYPE", name, kind] => family = (name, kind),
            ["#", "HELP", _, help] => assert!(!help.is_empty(), "{line}"),
            ["#", "UNIT", name, unit] => assert!(name.ends_with(unit), "{line}"),
            ["#", "EOF"] => assert!(text.ends_with("# EOF\n"), "{text}"),
            _ => {
                let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
                let bare = name.split('{').next().unwrap_or_default();
                let rest = bare.strip_prefix(family.0).unwrap_or_else(|| panic!("{line} below {family:?}"));
                let known = match family.1 {
                    "counter" => ["_total", ""].contains(&rest) && bare.ends_with("_total"),
                    "histogram" => ["_bucket", "_sum", "_count"].contains(&rest),
                    "info" => rest == "_info",
                    "gauge" => rest.is_empty(),
                    other => panic!("a family of type {other}"),
                };
                assert!(known && value >= 0.0, "{line} below {family:?}");
                assert!(samples.insert(name.into(), value).is_none(), "{line}: twice");
            }
        }
    }
    samples
}

/// All samples of this name, labels or not.
pub fn of(samples: &Samples, name: &str) -> Samples {
    let is = |key: &&String| key.split('{').next() == Some(name);
    samples.iter().filter(|(key, _)| is(key)).map(|(key, value)| (key.clone(), *value)).collect()
}

/// The sum of all samples of this name.
pub fn sum(samples: &Samples, name: &str) -> f64 {
    of(samples, name).values().sum()
}
