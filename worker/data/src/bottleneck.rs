//! Which stage of the pipeline holds training up.
//!
//! ```text
//! network ─ shards ─> decode, tokenize ─ batches ─> copy ─ tensors ─> step
//! ```
//!
//! Between two stages lies a bounded queue. Where training finds tensors ready, nothing of the pipeline holds it up, however long a stage
//! takes beside it. Where it waits, the queue before it is empty. Then the culprit is the copy, if that is what the copying thread spends
//! its time on; if it waits for batches instead, the culprit is the stage that the decoding threads spend their time on: if they wait
//! for shards, their own queue is empty too and it is the network.

use std::time::Duration;

/// Training may wait this share of its time before a stage is blamed.
pub const TOLERATED: f64 = 0.01;

/// A stage that holds training up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bottleneck {
    /// Shards arrive too slowly.
    Network,
    /// Reading, decoding and resizing are too slow.
    Decode,
    /// Tokenising is too slow.
    Tokenize,
    /// Copies to the device are too slow.
    Copy,
    /// None: training does not wait for data.
    None,
}

impl Bottleneck {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Network, Self::Decode, Self::Tokenize, Self::Copy, Self::None];

    /// As a label of a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Decode => "decode",
            Self::Tokenize => "tokenize",
            Self::Copy => "copy",
            Self::None => "none",
        }
    }
}

/// Where the time of a stretch went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// How long the stretch was.
    pub elapsed: Duration,
    /// Training waited for a batch.
    pub waited: Duration,
    /// The copying thread waited for a batch.
    pub unfed: Duration,
    /// It copied.
    pub copy: Duration,
    /// Decoding threads waited for shards, summed over the threads; so are the following.
    pub network: Duration,
    /// They read, decoded and resized.
    pub decode: Duration,
    /// They tokenised.
    pub tokenize: Duration,
}

impl Window {
    /// The times since an earlier reading of the same clocks.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            elapsed: self.elapsed.saturating_sub(earlier.elapsed),
            waited: self.waited.saturating_sub(earlier.waited),
            unfed: self.unfed.saturating_sub(earlier.unfed),
            copy: self.copy.saturating_sub(earlier.copy),
            network: self.network.saturating_sub(earlier.network),
            decode: self.decode.saturating_sub(earlier.decode),
            tokenize: self.tokenize.saturating_sub(earlier.tokenize),
        }
    }
}

/// The stage that held training up in a window.
pub fn bottleneck(window: &Window) -> Bottleneck {
    if window.waited <= window.elapsed.mul_f64(TOLERATED) {
        return Bottleneck::None;
    }
    if window.copy > window.unfed {
        return Bottleneck::Copy;
    }
    if window.network >= window.decode + window.tokenize {
        return Bottleneck::Network;
    }
    if window.tokenize > window.decode { Bottleneck::Tokenize } else { Bottleneck::Decode }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds of ten: of training waited; of the copying thread unfed and copy; of the decoding threads network, decode, tokenize.
    fn of(waited: f64, [unfed, copy]: [f64; 2], [network, decode, tokenize]: [f64; 3]) -> Bottleneck {
        let seconds = Duration::from_secs_f64;
        bottleneck(&Window {
            elapsed: seconds(10.0),
            waited: seconds(waited),
            unfed: seconds(unfed),
            copy: seconds(copy),
            network: seconds(network),
            decode: seconds(decode),
            tokenize: seconds(tokenize),
        })
    }

    #[test]
    fn nothing_is_blamed_where_training_does_not_wait() {
        assert_eq!(of(0.0, [0.0, 0.0], [0.0, 0.0, 0.0]), Bottleneck::None);
        let full = of(0.09, [0.1, 0.5], [38.0, 2.0, 0.1]);
        assert_eq!(full, Bottleneck::None, "threads that wait with full queues are no loss");
    }

    #[test]
    fn a_copy_beside_training_is_no_stall() {
        assert_eq!(of(0.05, [0.0, 9.9], [2.0, 30.0, 8.0]), Bottleneck::None);
        assert_eq!(of(0.5, [0.0, 9.9], [2.0, 30.0, 8.0]), Bottleneck::Copy, "training waits for it");
        assert_eq!(of(3.0, [5.0, 4.0], [2.0, 30.0, 8.0]), Bottleneck::Decode, "the copy waits itself");
    }

    #[test]
    fn the_stage_that_the_threads_spend_their_time_on_is_blamed() {
        assert_eq!(of(5.0, [5.0, 0.0], [0.0, 0.0, 0.0]), Bottleneck::Network, "nothing came at all");
        assert_eq!(of(5.0, [5.0, 0.1], [30.0, 9.0, 1.0]), Bottleneck::Network);
        assert_eq!(of(5.0, [5.0, 0.1], [2.0, 30.0, 8.0]), Bottleneck::Decode);
        assert_eq!(of(0.2, [0.2, 0.1], [2.0, 8.0, 30.0]), Bottleneck::Tokenize);
        assert_eq!(of(0.2, [0.0, 0.0], [2.0, 8.0, 30.0]), Bottleneck::Tokenize, "batches are taken as they are");
    }

    #[test]
    fn labels_are_those_of_the_metric() {
        assert_eq!(Bottleneck::ALL.map(Bottleneck::as_str), ["network", "decode", "tokenize", "copy", "none"]);
    }
}
