//! Errors as one line of text, for logs and messages that cross the wire.

use std::error::Error;

/// An error with its causes on one line, outermost first.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the part was not written")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_line_holds_every_cause() {
        let error = Outer(std::io::Error::other("the disk is full"));
        assert_eq!(with_causes(&error), "the part was not written: the disk is full");
    }
}
