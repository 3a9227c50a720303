//! Identities and units of the core, which depends on nothing of ours.
//!
//! Names are mostly short and lie where they are used: a look at ten thousand members compares several of each.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(SmolStr);

        impl $name {
            /// The text of the identity.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }
        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $of:ty) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $of);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

name!(
    /// A job; never reused.
    JobId
);
name!(
    /// A worker's place, stable over restarts of its process.
    WorkerId
);
name!(
    /// One process of a worker: a restarted worker is another incarnation.
    Incarnation
);
number!(
    /// How often a job's group has formed: grows by one, never reused.
    Generation, u64
);
number!(
    /// Completed optimizer updates.
    Step, u64
);
number!(
    /// A member's place in its group, `0..world size`.
    Rank, u32
);
number!(
    /// One stream between a worker and this coordinator process. Numbers are never reused within
    /// a process, so that the end of an old stream can't be taken for the end of its successor.
    Link, u64
);
number!(
    /// Milliseconds since the Unix epoch, as the caller's clock has it. Never runs backwards
    /// within one process: the caller sees to that.
    Time, u64
);

number!(
    /// A rank's own time of a step, in which it waits for nobody, in thousandths of the mean of its group: smoothed over
    /// steps, 1000 is as fast as the others.
    Pace, u32
);

impl Generation {
    /// The one that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Step {
    /// The one that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Time {
    /// How long ago `earlier` was; zero when it lies ahead (a clock that was set back).
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, duration: Duration) -> Time {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(millis))
    }
}
