//! Progress of long work on stderr: a bar on a terminal, now and then a line in a pipe.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// In a pipe, one line in so long.
const LINE_PERIOD: Duration = Duration::from_secs(2);

/// One piece of long work.
pub(crate) struct Meter {
    label: String,
    total: u64,
    display: Display,
}

enum Display {
    Bar(ProgressBar),
    Lines { due: Instant, shown: Option<u64> },
}

impl Meter {
    /// Progress towards `total`; 0 where that is not known yet.
    pub(crate) fn new(label: impl Into<String>, total: u64) -> Self {
        let label = label.into();
        let display = if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{prefix:.bold} {bar:32.cyan/dim} {pos}/{len}  {msg}")
                .expect("the template is well-formed")
                .progress_chars("━━─");
            let bar = ProgressBar::new(total).with_style(style).with_prefix(label.clone());
            bar.enable_steady_tick(Duration::from_millis(250));
            Display::Bar(bar)
        } else {
            Display::Lines { due: Instant::now(), shown: None }
        };
        Self { label, total, display }
    }

    /// Corrects the total.
    pub(crate) fn set_total(&mut self, total: u64) {
        self.total = total;
        if let Display::Bar(bar) = &self.display {
            bar.set_length(total);
        }
    }

    /// Shows how far the work is, and what there is to say about it.
    pub(crate) fn set(&mut self, position: u64, message: &str) {
        match &mut self.display {
            Display::Bar(bar) => {
                bar.set_position(position);
                bar.set_message(message.to_owned());
            }
            Display::Lines { due, shown } => {
                let (now, complete) = (Instant::now(), position >= self.total);
                if *shown != Some(position) && (now >= *due || complete) {
                    (*due, *shown) = (now + LINE_PERIOD, Some(position));
                    let gap = if message.is_empty() { "" } else { "  " };
                    eprintln!("{} {position}/{}{gap}{message}", self.label, self.total);
                }
            }
        }
    }

    /// Writes a line that stays, above the bar.
    pub(crate) fn note(&self, text: &str) {
        match &self.display {
            Display::Bar(bar) => bar.suspend(|| eprintln!("{text}")),
            Display::Lines { .. } => eprintln!("{text}"),
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}
