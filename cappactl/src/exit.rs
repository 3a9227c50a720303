//! How a command ends: errors that say what happened, what scripts see of it, and what to do.

pub(crate) use cappa_shared::code::Exit;
use thiserror::Error;

/// An error as people read it: what happened, what it means for scripts, and what to do.
#[derive(Debug, Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// What `cappactl explain` knows more about.
    pub(crate) code: Option<String>,
    pub(crate) message: String,
    /// One line each, e.g. the mistakes of a spec.
    pub(crate) details: Vec<String>,
    pub(crate) remedy: Option<String>,
    #[source]
    pub(crate) source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, code: None, message: message.into(), details: Vec::new(), remedy: None, source: None }
    }

    pub(crate) fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    pub(crate) fn details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }

    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    pub(crate) fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// Writes an error to stderr and says how the program ends.
pub(crate) fn report(error: &anyhow::Error) -> Exit {
    if is_broken_pipe(error) {
        return Exit::Ok; // The reader of our output has seen enough.
    }
    eprint!("{}", render(error));
    error.chain().find_map(|cause| cause.downcast_ref::<Failure>()).map_or(Exit::Failed, |failure| failure.exit)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |io: &std::io::Error| io.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(broken))
}

fn render(error: &anyhow::Error) -> String {
    let red = console::style("error").red().bold().for_stderr();
    let failure = error.chain().find_map(|cause| cause.downcast_ref::<Failure>());
    let code = failure.and_then(|failure| failure.code.as_deref());
    let mut text = match code {
        Some(code) => format!("{red}[{code}]: {error}\n"),
        None => format!("{red}: {error}\n"),
    };
    for detail in failure.into_iter().flat_map(|failure| &failure.details) {
        text += &format!("  {detail}\n");
    }
    for cause in error.chain().skip(1) {
        text += &format!("  caused by: {cause}\n");
    }
    let bold = console::style("help").bold().for_stderr();
    if let Some(remedy) = failure.and_then(|failure| failure.remedy.as_deref()) {
        text += &format!("{bold}: {remedy}\n");
    }
    if let Some(code) = code {
        text += &format!("{bold}: `cappactl explain {code}` says more\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_happened_why_and_what_to_do() {
        let failure = Failure::new(Exit::Unavailable, "cannot reach the coordinator")
            .details(vec!["first".into(), "second".into()])
            .source(std::io::Error::other("connection refused"))
            .remedy("start one");
        insta::assert_snapshot!(render(&failure.into()), @r"
        error: cannot reach the coordinator
          first
          second
          caused by: connection refused
        help: start one
        ");
    }

    #[test]
    fn a_reader_that_goes_away_is_no_error() {
        let gone = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(report(&anyhow::Error::from(gone).context("cannot write")), Exit::Ok);
    }
}
