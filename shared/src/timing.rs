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

/// A worker says no more often that it lives.
const LEAST_HEARTBEAT: Duration = Duration::from_millis(10);

/// What takes longer than any time-out may is no fault that a time-out finds.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The first pause of a worker that has lost the coordinator; it doubles up to [`LONGEST_PAUSE`].
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause of a worker before it tries again to reach a coordinator.
pub const LONGEST_PAUSE: Duration = Duration::from_millis(800);

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
}

/// Time-outs that can't all be meant: of each contradiction the setting, and after a colon what would resolve it.
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

    /// Those that follow from `detection`, none of them set by hand.
    fn following(detection: Duration) -> Self {
        Self {
            heartbeat: detection / 5,
            lost_after: detection,
            // Time for workers to find a coordinator that restarts, with their pauses.
            grace: detection.saturating_mul(2).max(Duration::from_secs(10)),
            // Includes a restore from the store where no member has state.
            forming: detection.saturating_mul(12).max(Duration::from_secs(60)),
            operation: detection.saturating_mul(12).max(Duration::from_secs(60)),
            rpc: detection.max(Duration::from_secs(2)),
            // The store has to answer within a third of it.
            lease: (detection / 5).saturating_mul(3).clamp(Duration::from_millis(600), Duration::from_secs(3)),
        }
    }
}

impl Overrides {
    /// All time-outs, those that are set as they are set.
    ///
    /// # Errors
    /// Every contradiction at once.
    pub fn resolve(&self, detection: Duration) -> Result<Timings, Contradictions> {
        let (least, most) = DETECTION;
        if !(least..=most).contains(&detection) {
            let [detection, least, most] = [detection, least, most].map(Span);
            return Err(Contradictions(vec![format!("detection: {detection} is outside {least} to {most}")]));
        }
        let derived = Timings::following(detection);
        let timings = Timings {
            heartbeat: self.heartbeat.unwrap_or(derived.heartbeat),
            grace: self.grace.unwrap_or(derived.grace),
            forming: self.forming.unwrap_or(derived.forming),
            operation: self.operation.unwrap_or(derived.operation),
            rpc: self.rpc.unwrap_or(derived.rpc),
            ..derived
        };
        let found = contradictions(&timings);
        if found.is_empty() { Ok(timings) } else { Err(Contradictions(found)) }
    }
}

fn contradictions(timings: &Timings) -> Vec<String> {
    let Timings { heartbeat, lost_after, grace, forming, operation, rpc, .. } = *timings;
    let detection = Span(lost_after);
    let rules = [
        (
            heartbeat < LEAST_HEARTBEAT,
            format!("heartbeat: {} is below {}, the least", Span(heartbeat), Span(LEAST_HEARTBEAT)),
        ),
        (
            heartbeat.saturating_mul(2) > lost_after,
            format!(
                "heartbeat: {} is more than half of detection, {detection}, so that one late heartbeat loses a worker; lower \
                 heartbeat or raise detection",
                Span(heartbeat)
            ),
        ),
        (
            grace < lost_after,
            format!(
                "grace: {} is less than detection, {detection}, so that a restarted coordinator declares living workers lost; \
                 raise grace",
                Span(grace)
            ),
        ),
        (
            grace <= LONGEST_PAUSE,
            format!(
                "grace: {} is not more than {}, the pause of a worker before it tries to come back; raise grace",
                Span(grace),
                Span(LONGEST_PAUSE)
            ),
        ),
        (
            operation <= lost_after,
            format!(
                "operation: {} is not more than detection, {detection}, so that collectives fail before the lost worker is \
                 named; raise operation",
                Span(operation)
            ),
        ),
        (
            forming <= lost_after,
            format!(
                "forming: {} is not more than detection, {detection}, so that a member lost in forming is never named; raise \
                 forming",
                Span(forming)
            ),
        ),
        (rpc.is_zero(), "rpc: no call is answered in no time; raise rpc".to_owned()),
        (
            rpc > forming,
            format!(
                "rpc: {} is more than forming, {}, so that a group is given up while a call still waits; lower rpc",
                Span(rpc),
                Span(forming)
            ),
        ),
    ];
    let named = [("grace", grace), ("forming", forming), ("operation", operation)];
    let too_long = named
        .map(|(name, time)| (time > LONGEST, format!("{name}: {} is above {}, the most", Span(time), Span(LONGEST))));
    rules.into_iter().chain(too_long).filter(|(broken, _)| *broken).map(|(_, message)| message).collect()
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
            prop_assert!(4 * timings.heartbeat <= detection && timings.grace > LONGEST_PAUSE);
        }

        #[test]
        fn a_printed_duration_is_read_back(milliseconds in any::<u32>()) {
            let span = Span(Duration::from_millis(milliseconds.into()));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }
    }

    /// What contradicts the default detection time, 5 s.
    fn found(overrides: Overrides) -> Vec<String> {
        overrides.resolve(DEFAULT_DETECTION).map_or_else(|Contradictions(found)| found, |_| Vec::new())
    }

    #[test]
    fn every_contradiction_is_named() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let overrides = Overrides {
            heartbeat: seconds(4),
            grace: seconds(1),
            operation: seconds(5),
            rpc: seconds(61),
            ..Overrides::default()
        };
        let all = found(overrides);
        let names: Vec<_> = all.iter().filter_map(|text| text.split(':').next()).collect();
        assert_eq!(names, ["heartbeat", "grace", "operation", "rpc"]);
        assert_eq!(
            all[0],
            "heartbeat: 4s is more than half of detection, 5s, so that one late heartbeat loses a worker; lower heartbeat or raise \
             detection"
        );
        let overrides =
            Overrides { heartbeat: seconds(0), forming: seconds(5), rpc: seconds(0), ..Overrides::default() };
        assert_eq!(found(overrides).len(), 3);
        let overrides = Overrides { grace: seconds(90_000), ..Overrides::default() };
        assert_eq!(found(overrides), ["grace: 25h is above 24h, the most"]);
        let short = Overrides { grace: Some(LONGEST_PAUSE), ..Overrides::default() };
        assert!(short.resolve(Duration::from_millis(500)).is_err(), "nobody comes back in so short a time");
    }

    #[test]
    fn what_is_set_stays_and_the_rest_follows() {
        let operation = Duration::from_secs(300);
        let timings =
            Overrides { operation: Some(operation), ..Overrides::default() }.resolve(DEFAULT_DETECTION).unwrap();
        assert_eq!(timings, Timings { operation, ..Timings::derive(DEFAULT_DETECTION).unwrap() });
    }

    #[test]
    fn a_detection_out_of_bounds_is_refused() {
        assert!(Timings::derive(Duration::from_millis(99)).is_err());
        assert!(Timings::derive(Duration::from_secs(601)).is_err());
        let told = Timings::derive(Duration::MAX).unwrap_err().0;
        assert!(told.len() == 1 && told[0].ends_with("is outside 100ms to 10m"), "{told:?}");
    }

    #[test]
    fn a_number_without_a_unit_is_no_duration() {
        for text in ["5", "", "s", "5 s", "-1s", "1.5s", "99999999999999999999s", "1d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        assert_eq!("90s".parse::<Span>().unwrap().to_string(), "90s");
    }
}
