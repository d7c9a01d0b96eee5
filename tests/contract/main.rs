// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What every tool is held to: promises/ has one file a promise, which becomes a test for each tool, `promise::tool`. A
//! promise has `check(tool)`; `applies(tool)`, as not every tool has every option; and `TOGETHER`, whether it can be tried
//! with many tools at once.
#![allow(clippy::unwrap_used)]

use std::any::Any;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::thread;

use kscope_tests::programs::tools;
use libtest_mimic::Arguments;
use libtest_mimic::Failed;
use libtest_mimic::Trial;

mod shared;

// One module a promise, and PROMISES: tests/build.rs made it of promises/.
include!(concat!(env!("OUT_DIR"), "/promises.rs"));

/// What holds for every tool.
struct Promise {
    name: &'static str,
    /// Whether it can be tried with many tools at once.
    together: bool,
    applies: fn(&str) -> bool,
    check: fn(&str),
}

/// So many tools are tried at once.
const AT_ONCE: usize = 8;

type Results = BTreeMap<&'static str, Result<(), String>>;

impl Promise {
    fn tools(&self) -> Vec<&'static str> {
        tools().iter().map(String::as_str).filter(|tool| (self.applies)(tool)).collect()
    }

    /// Try it with these tools. A failure of one hides none of another.
    fn try_all(&self, tools: Vec<&'static str>) -> Results {
        let workers = if self.together { AT_ONCE.min(tools.len()) } else { 1 };
        let (queue, results) = (Mutex::new(VecDeque::from(tools)), Mutex::new(Results::new()));
        thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let Some(tool) = { queue.lock().unwrap().pop_front() } {
                        let result = catch_unwind(|| (self.check)(tool)).map_err(text_of);
                        results.lock().unwrap().insert(tool, result);
                    }
                });
            }
        });
        results.into_inner().unwrap()
    }
}

fn text_of(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_string()
}

fn main() {
    let mut arguments = Arguments::from_args();
    // A promise is tried with many tools at once; beside another promise, its events would be those of both.
    arguments.test_threads.get_or_insert(1);
    // One test alone is of one tool alone.
    let alone = arguments.exact;
    let mut trials = Vec::new();
    for promise in PROMISES {
        let all = promise.tools();
        let results: &'static OnceLock<Results> = Box::leak(Box::default());
        for tool in all.clone() {
            let all = if alone { vec![tool] } else { all.clone() };
            trials.push(Trial::test(format!("{}::{tool}", promise.name), move || {
                let result = &results.get_or_init(|| promise.try_all(all))[tool];
                result.clone().map_err(Failed::from)
            }));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}
