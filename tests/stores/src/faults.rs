//! What goes wrong on the wire, and when.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Method;

/// How a request is answered instead of, or on top of, the right answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An error answer: HTTP status and S3's error code.
    Status(u16, &'static str),
    /// The connection is closed in an orderly way after so many bytes of the body.
    Truncate {
        /// Bytes that are sent.
        after: usize,
    },
    /// The connection is reset (RST) after so many bytes of the body.
    Reset {
        /// Bytes that are sent.
        after: usize,
    },
    /// The connection is reset before anything is answered.
    Refuse,
    /// The answer begins late.
    Delay(Duration),
    /// The body comes in small pieces with pauses between.
    Trickle {
        /// Bytes of a piece.
        piece: usize,
        /// Pause after each.
        pause: Duration,
    },
    /// A byte of the body is another one.
    Corrupt {
        /// Which byte, from the body's first.
        at: usize,
    },
}

impl Fault {
    /// The bucket is gone.
    pub const NO_BUCKET: Self = Self::Status(404, "NoSuchBucket");
    /// S3 asks to slow down.
    pub const SLOW_DOWN: Self = Self::Status(503, "SlowDown");
    /// S3 fails.
    pub const INTERNAL: Self = Self::Status(500, "InternalError");
}

/// Which requests meet a fault.
#[derive(Debug, Clone)]
pub struct Rule {
    method: Option<Method>,
    contains: String,
    fault: Fault,
    /// Of the requests that match, every n-th.
    every: u64,
    /// How many more; nothing: for ever.
    left: Option<u64>,
    met: u64,
}

impl Rule {
    /// Every request meets `fault`, until [`Faults::clear`].
    pub fn new(fault: Fault) -> Self {
        Self { method: None, contains: String::new(), fault, every: 1, left: None, met: 0 }
    }

    /// Only reads of objects.
    #[must_use]
    pub fn gets(self) -> Self {
        Self { method: Some(Method::GET), ..self }
    }

    /// Only where path and query contain `part`.
    #[must_use]
    pub fn on(self, part: &str) -> Self {
        Self { contains: part.to_owned(), ..self }
    }

    /// Only every n-th of them, beginning with the n-th.
    #[must_use]
    pub fn every(self, n: u64) -> Self {
        Self { every: n.max(1), ..self }
    }

    /// Only the first of them.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { left: Some(times), ..self }
    }

    fn apply(&mut self, method: &Method, target: &str) -> Option<Fault> {
        let meant = self.method.as_ref().is_none_or(|only| only == method) && target.contains(&self.contains);
        if !meant || self.left == Some(0) {
            return None;
        }
        self.met += 1;
        if !self.met.is_multiple_of(self.every) {
            return None;
        }
        self.left = self.left.map(|left| left - 1);
        Some(self.fault.clone())
    }
}

/// A request that was served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// GET, PUT, …
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// What it met.
    pub fault: Option<Fault>,
}

/// The rules of a server, and what it has served. The first rule that applies wins.
#[derive(Debug, Default)]
pub struct Faults {
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Seen>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faults {
    /// Adds a rule after those that are there.
    pub fn add(&self, rule: Rule) {
        lock(&self.rules).push(rule);
    }

    /// Ends all faults.
    pub fn clear(&self) {
        lock(&self.rules).clear();
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }

    /// How many requests met a fault.
    pub fn injected(&self) -> usize {
        lock(&self.seen).iter().filter(|seen| seen.fault.is_some()).count()
    }

    pub(crate) fn meet(&self, method: &Method, target: &str, range: Option<String>) -> Option<Fault> {
        let fault = lock(&self.rules).iter_mut().find_map(|rule| rule.apply(method, target));
        let seen = Seen { method: method.clone(), target: target.to_owned(), range, fault: fault.clone() };
        lock(&self.seen).push(seen);
        fault
    }
}
