//! How long to wait for what. One knob, `detection`, says how soon a silent worker is declared lost, and every other
//! time-out follows from it; a configuration that sets them itself is held against the same rules.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How soon a silent worker is declared lost, where nothing else is configured.
pub const DEFAULT_DETECTION: Duration = Duration::from_secs(5);

/// Bounds of `detection`: below, a busy machine looks dead; above, time-outs are not what finds a fault.
const DETECTION: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(600));

/// Every time-out of a cluster. They fit together: [`Timings::derive`] and [`Overrides::resolve`] make no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// A worker says that it lives this often.
    pub heartbeat: Duration,
    /// A worker that was silent for so long is lost.
    pub lost_after: Duration,
    /// A new or restarted coordinator judges nobody for so long.
    pub grace: Duration,
    /// A group that has not formed after so long is given up, and the next is formed.
    pub forming: Duration,
    /// One collective operation that takes so long has failed. The last resort: a lost worker is noticed by the coordinator
    /// first, which tells the others to abort.
    pub operation: Duration,
    /// An answer to a remote call takes so long at most.
    pub rpc: Duration,
    /// A coordinator that leads and was not heard for so long is succeeded by another.
    pub lease: Duration,
    /// The first wait before a lost connection is tried again; it doubles until `backoff_limit`.
    pub backoff: Duration,
    /// The longest wait before a lost connection is tried again.
    pub backoff_limit: Duration,
}

/// Time-outs that a configuration sets itself; the others follow from `detection`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overrides {
    /// See [`Timings::heartbeat`].
    pub heartbeat: Option<Duration>,
    /// See [`Timings::grace`].
    pub grace: Option<Duration>,
    /// See [`Timings::forming`].
    pub forming: Option<Duration>,
    /// See [`Timings::operation`].
    pub operation: Option<Duration>,
    /// See [`Timings::rpc`].
    pub rpc: Option<Duration>,
    /// See [`Timings::backoff_limit`].
    pub backoff_limit: Option<Duration>,
}

/// Time-outs that can't all be meant; each contradiction with what would resolve it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the time-outs contradict each other: {}", .0.join("; "))]
pub struct Contradictions(pub Vec<String>);

impl Timings {
    /// All time-outs for a detection time.
    ///
    /// # Errors
    /// When `detection` is outside 100 ms to 10 min.
    pub fn derive(detection: Duration) -> Result<Self, Contradictions> {
        Overrides::default().resolve(detection)
    }

    /// The wait before the `attempt`-th try (from 0) to reconnect.
    pub fn backoff(&self, attempt: u32) -> Duration {
        self.backoff.saturating_mul(2_u32.saturating_pow(attempt)).min(self.backoff_limit)
    }

    /// Those that follow from `detection`, none of them set by hand.
    fn following(detection: Duration) -> Self {
        Self {
            heartbeat: detection / 5,
            lost_after: detection,
            // Time for workers to find a coordinator that restarts, with backoff.
            grace: detection.saturating_mul(2).max(Duration::from_secs(10)),
            // Includes a restore from the store where no member has state.
            forming: detection.saturating_mul(12).max(Duration::from_secs(60)),
            operation: detection.saturating_mul(12).max(Duration::from_secs(60)),
            rpc: detection.max(Duration::from_secs(2)),
            // The store has to answer within a third of it.
            lease: (detection / 5).saturating_mul(3).clamp(Duration::from_millis(600), Duration::from_secs(3)),
            backoff: detection / 50,
            backoff_limit: detection / 2,
        }
    }
}

impl Overrides {
    /// All time-outs, those that are set as they are set.
    ///
    /// # Errors
    /// Every contradiction at once.
    pub fn resolve(&self, detection: Duration) -> Result<Timings, Contradictions> {
        let derived = Timings::following(detection);
        let timings = Timings {
            heartbeat: self.heartbeat.unwrap_or(derived.heartbeat),
            grace: self.grace.unwrap_or(derived.grace),
            forming: self.forming.unwrap_or(derived.forming),
            operation: self.operation.unwrap_or(derived.operation),
            rpc: self.rpc.unwrap_or(derived.rpc),
            backoff_limit: self.backoff_limit.unwrap_or(derived.backoff_limit),
            backoff: derived.backoff.min(self.backoff_limit.unwrap_or(derived.backoff)),
            ..derived
        };
        let found = contradictions(&timings);
        if found.is_empty() { Ok(timings) } else { Err(Contradictions(found)) }
    }
}

fn contradictions(timings: &Timings) -> Vec<String> {
    let Timings { heartbeat, lost_after, grace, forming, operation, rpc, backoff_limit, .. } = *timings;
    let (least, most) = DETECTION;
    let rules = [
        (
            lost_after < least || lost_after > most,
            format!("detection is {lost_after:?}, outside {least:?} to {most:?}"),
        ),
        (
            heartbeat.saturating_mul(2) > lost_after,
            format!(
                "heartbeat, {heartbeat:?}, is more than half of detection, {lost_after:?}, so that one late heartbeat loses a \
                 worker; lower heartbeat or raise detection"
            ),
        ),
        (
            grace < lost_after,
            format!(
                "grace, {grace:?}, is less than detection, {lost_after:?}, so that a restarted coordinator declares living \
                 workers lost; raise grace"
            ),
        ),
        (
            backoff_limit >= grace,
            format!(
                "backoff_limit, {backoff_limit:?}, is not less than grace, {grace:?}, so that workers come back too late; lower \
                 backoff_limit or raise grace"
            ),
        ),
        (
            operation <= lost_after,
            format!(
                "operation, {operation:?}, is not more than detection, {lost_after:?}, so that collectives fail before the lost \
                 worker is named; raise operation"
            ),
        ),
        (
            forming <= lost_after,
            format!(
                "forming, {forming:?}, is not more than detection, {lost_after:?}, so that a member lost in forming is never \
                 named; raise forming"
            ),
        ),
        (
            rpc > forming,
            format!(
                "rpc, {rpc:?}, is more than forming, {forming:?}, so that a group is given up while a call still waits; lower rpc"
            ),
        ),
        (
            [heartbeat, rpc, backoff_limit].contains(&Duration::ZERO),
            "heartbeat, rpc and backoff_limit must be more than 0".into(),
        ),
    ];
    rules.into_iter().filter(|(broken, _)| *broken).map(|(_, message)| message).collect()
}

/// A duration as it is written in options and configurations: a number and `ms`, `s`, `m` or `h`, such as `500ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl TryFrom<String> for Span {
    type Error = InvalidSpan;

    fn try_from(text: String) -> Result<Self, InvalidSpan> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a duration; write a number and a unit, such as 500ms, 5s, 2m or 1h")]
pub struct InvalidSpan(String);

impl FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(text: &str) -> Result<Self, InvalidSpan> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(InvalidSpan(text.to_owned())),
        };
        let milliseconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        milliseconds.map(Duration::from_millis).map(Span).ok_or_else(|| InvalidSpan(text.to_owned()))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            ms if ms.is_multiple_of(3_600_000) && ms > 0 => write!(f, "{}h", ms / 3_600_000),
            ms if ms.is_multiple_of(60_000) && ms > 0 => write!(f, "{}m", ms / 60_000),
            ms if ms.is_multiple_of(1000) => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn one_knob_is_enough(milliseconds in 100..600_000u64) {
            let detection = Duration::from_millis(milliseconds);
            let timings = Timings::derive(detection).unwrap();
            prop_assert_eq!(timings.lost_after, detection);
            prop_assert!(4 * timings.heartbeat <= detection && timings.backoff(0) < timings.backoff(9));
        }

        #[test]
        fn a_printed_duration_is_read_back(milliseconds in any::<u32>()) {
            let span = Span(Duration::from_millis(milliseconds.into()));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }
    }

    #[test]
    fn every_contradiction_is_named() {
        let overrides = Overrides {
            heartbeat: Some(Duration::from_secs(4)),
            grace: Some(Duration::from_secs(1)),
            operation: Some(Duration::from_secs(5)),
            backoff_limit: Some(Duration::from_secs(9)),
            ..Overrides::default()
        };
        let Contradictions(found) = overrides.resolve(DEFAULT_DETECTION).unwrap_err();
        let names: Vec<_> = found.iter().map(|text| text.split([',', ' ']).next().unwrap()).collect();
        assert_eq!(names, ["heartbeat", "grace", "backoff_limit", "operation"]);
        assert_eq!(
            found[0],
            "heartbeat, 4s, is more than half of detection, 5s, so that one late heartbeat loses a worker; lower heartbeat or \
             raise detection"
        );
    }

    #[test]
    fn a_detection_out_of_bounds_is_refused() {
        assert!(Timings::derive(Duration::from_millis(99)).is_err());
        assert!(Timings::derive(Duration::from_secs(601)).is_err());
        assert!(Timings::derive(Duration::MAX).is_err());
    }

    #[test]
    fn a_number_without_a_unit_is_no_duration() {
        for text in ["5", "", "s", "5 s", "-1s", "1.5s", "99999999999999999999s", "1d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        assert_eq!("90s".parse::<Span>().unwrap().to_string(), "90s");
    }
}
