//! Where the coordinators are: named, or of the cluster that `cappactl local up` started here, or on
//! this machine's usual port.

use std::fmt;
use std::path::PathBuf;

use cappa_shared::coordinators::Coordinators;

use crate::exit::{Exit, Failure};
use crate::local::State;

/// Where a coordinator listens that was started by hand without other instructions.
const DEFAULT: &str = "http://127.0.0.1:7070";

/// A coordinator's address, and who said so.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Address {
    pub(crate) coordinators: Coordinators,
    origin: Origin,
}

#[derive(Debug, Clone, PartialEq)]
enum Origin {
    Named,
    Local(PathBuf),
    Default,
}

impl Address {
    /// `named` if given, else the running cluster of the folder `local`, else the usual port.
    pub(crate) fn find(named: Option<&str>, local: &std::path::Path) -> Self {
        if let Some(named) = named {
            return Self { coordinators: Coordinators::parse(named), origin: Origin::Named };
        }
        match State::read(local) {
            Ok(Some(state)) if state.is_alive() => Self::of_local(&state, local),
            _ => Self { coordinators: Coordinators::parse(DEFAULT), origin: Origin::Default },
        }
    }

    /// The address of a cluster on this machine.
    pub(crate) fn of_local(state: &State, dir: &std::path::Path) -> Self {
        Self { coordinators: Coordinators::parse(&state.coordinators()), origin: Origin::Local(dir.to_owned()) }
    }

    /// The error of a coordinator that does not answer.
    pub(crate) fn unreachable(&self) -> Failure {
        let remedy = match &self.origin {
            Origin::Named => "check the address, and that the coordinator runs".to_owned(),
            Origin::Local(dir) => {
                let dir = dir.display();
                format!(
                    "see `cappactl local status --dir {dir}`; `cappactl local up --dir {dir}` starts again what has ended"
                )
            }
            Origin::Default => "start a cluster here with `cappactl local up`, or name one with --coordinator \
                                or CAPPA_COORDINATOR"
                .to_owned(),
        };
        Failure::new(Exit::Unavailable, format!("cannot reach the coordinator at {self}")).remedy(remedy)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls = self.coordinators.urls().join(", ");
        match &self.origin {
            Origin::Named | Origin::Default => f.write_str(&urls),
            Origin::Local(dir) => write!(f, "{urls} (the local cluster in {})", dir.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_addresses_win_and_may_omit_the_scheme() {
        let found = |named| Address::find(named, std::path::Path::new("no-such-folder")).to_string();
        assert_eq!(found(Some("cluster:7070")), "http://cluster:7070");
        assert_eq!(found(Some("http://a:7070,b:7070")), "http://a:7070, http://b:7070");
        assert_eq!(found(None), DEFAULT);
    }
}
