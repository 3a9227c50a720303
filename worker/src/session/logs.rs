//! This process's log lines, as the coordinator keeps them for `cappactl logs`.

use std::fmt::{Debug, Write as _};
use std::sync::Arc;

use cappa_proto as wire;
use cappa_shared::ids::WorkerId;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::ledger::Ledger;
use crate::train::unix_ms;

/// Puts every line into the ledger.
pub(crate) struct Forward {
    ledger: Arc<Ledger>,
    worker: WorkerId,
}

impl Forward {
    /// The lines of this worker.
    pub(crate) fn new(ledger: Arc<Ledger>, worker: WorkerId) -> Self {
        Self { ledger, worker }
    }
}

impl<S: Subscriber> Layer<S> for Forward {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        self.ledger.book().line(wire::LogLine {
            unix_ms: unix_ms(),
            worker_id: self.worker.to_string(),
            rank: 0, // the coordinator knows the rank
            level: event.metadata().level().to_string(),
            message: text.message + &text.fields,
        });
    }
}

/// The message, then `name=value` for every field.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string can't fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
