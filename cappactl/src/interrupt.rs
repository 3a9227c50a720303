//! Being asked to end: Ctrl-C, or SIGTERM of whoever started us.

use tokio::signal::unix::{SignalKind, signal};

/// Resolves when the user presses Ctrl-C or somebody sends SIGTERM. From the first call on, neither ends the program
/// by itself.
pub(crate) async fn interrupted() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        },
        Err(_) => {
            // Without a handler SIGTERM ends the program, which is what it asks for.
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
