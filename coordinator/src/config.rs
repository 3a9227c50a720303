//! The coordinator's settings: flags and environment, checked as a whole.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use cappa_shared::storage::{AllowList, StorageError};
use cappa_shared::timing::{Contradictions, Overrides, Span, Timings};
use clap::{Parser, Subcommand};
use thiserror::Error;

use crate::policy::ClusterPolicy;

/// The settings as they are given.
#[derive(Debug, Clone, Parser)]
#[command(name = "cappa-coordinator", version, about = "Plans and watches CapPa training jobs")]
pub struct Args {
    /// Folder or bucket of the coordinator's state and the jobs' folders, e.g. s3://bucket/cappa or an absolute path.
    #[arg(long, env = "CAPPA_STORE", value_name = "URL")]
    pub store: String,
    /// Where gRPC is served.
    #[arg(long, env = "CAPPA_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:7070")]
    pub listen: String,
    /// Where the web page, its API and /metrics are served.
    #[arg(long, env = "CAPPA_HTTP", value_name = "ADDRESS", default_value = "127.0.0.1:7071")]
    pub http: String,
    /// Where workers, people and other coordinators reach the gRPC of this one, as HOST:PORT, when it leads [default: where it
    /// listens].
    #[arg(long, env = "CAPPA_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// The same for HTTP [default: where it listens].
    #[arg(long, env = "CAPPA_ADVERTISE_HTTP", value_name = "HOST:PORT")]
    pub advertise_http: Option<String>,
    /// How long to wait for what.
    #[command(flatten)]
    pub time_outs: TimeOuts,
    /// File that the bound addresses are written to as JSON, once they are served.
    #[arg(long, env = "CAPPA_ADDRESS_FILE", value_name = "PATH")]
    pub address_file: Option<PathBuf>,
    /// URL prefix below which specs may name data; may be repeated. Without any, everything may be named.
    #[arg(long, env = "CAPPA_ALLOW_STORE", value_name = "PREFIX", value_delimiter = ',')]
    pub allow_store: Vec<String>,
    /// YAML file with namespaces, quotas and priority classes; without one everybody may use everything.
    #[arg(long, env = "CAPPA_POLICY", value_name = "PATH")]
    pub policy: Option<PathBuf>,
    /// What to do with the event log instead of serving.
    #[command(subcommand)]
    pub task: Option<Task>,
}

/// How long to wait for what, as it is given. See docs/OPERATING.md.
#[derive(Debug, Clone, clap::Args)]
pub struct TimeOuts {
    /// How soon a silent worker is declared lost, from 100ms to 10m; every other time-out follows from it.
    #[arg(long, env = "CAPPA_DETECTION", value_name = "DURATION", default_value = "5s")]
    pub detection: String,
    /// How often a worker says that it lives [default: a fifth of --detection].
    #[arg(long, env = "CAPPA_HEARTBEAT", value_name = "DURATION", help_heading = TIME_OUTS)]
    pub heartbeat: Option<String>,
    /// How long a coordinator that begins to lead waits for the workers that it knows to come back [default: twice --detection,
    /// at least 10s].
    #[arg(long, env = "CAPPA_GRACE", value_name = "DURATION", help_heading = TIME_OUTS)]
    pub grace: Option<String>,
    /// How long a group may take to form, with its state restored, before it is given up [default: 12 times --detection, at
    /// least 1m].
    #[arg(long, env = "CAPPA_FORMING", value_name = "DURATION", help_heading = TIME_OUTS)]
    pub forming: Option<String>,
    /// How long one collective operation may take before it has failed [default: 12 times --detection, at least 1m].
    #[arg(long, env = "CAPPA_OPERATION", value_name = "DURATION", help_heading = TIME_OUTS)]
    pub operation: Option<String>,
    /// How long a follower waits for the answer of the coordinator that leads [default: --detection, at least 2s].
    #[arg(long, env = "CAPPA_RPC", value_name = "DURATION", help_heading = TIME_OUTS)]
    pub rpc: Option<String>,
}

const TIME_OUTS: &str = "Time-outs that follow from --detection where they are not set";

/// What is done with the event log below `--store` instead of serving. See coordinator/README.md.
#[derive(Debug, Clone, Subcommand)]
pub enum Task {
    /// Write the event log to a file, also while a coordinator uses it. Jobs' folders are not in it.
    Backup {
        /// The file; one that is there is replaced.
        #[arg(long, value_name = "PATH")]
        to: PathBuf,
    },
    /// Write the event log that a file holds into a store that has none.
    Restore {
        /// The file.
        #[arg(long, value_name = "PATH")]
        from: PathBuf,
    },
}

/// The settings, each checked by itself and against the others.
#[derive(Debug, Clone)]
pub struct Config {
    /// URL of the store.
    pub store: String,
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where others reach its gRPC; where it listens, when absent.
    pub advertise: Option<String>,
    /// Where others reach its HTTP; where it listens, when absent.
    pub advertise_http: Option<String>,
    /// All time-outs.
    pub timings: Timings,
    /// Where the bound addresses are written to.
    pub address_file: Option<PathBuf>,
    /// What specs may name.
    pub allowed: AllowList,
    /// Who may use how much.
    pub policy: ClusterPolicy,
}

/// Every mistake of the settings, each with its flag and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings can't be used")?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl TryFrom<Args> for Config {
    type Error = ConfigErrors;

    fn try_from(args: Args) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        let listen = address("--listen", &args.listen, &mut errors);
        let http = address("--http", &args.http, &mut errors);
        if let (Some(listen), Some(http)) = (listen, http)
            && listen == http
            && listen.port() != 0
        {
            errors.push(format!("--http: {http} is --listen as well; choose another port"));
        }
        let timings = args.time_outs.resolve().map_err(|mistakes| errors.extend(mistakes)).ok();
        if let Err(error) = cappa_shared::storage::parse(&args.store) {
            errors.push(format!("--store: {error}"));
        }
        let allowed = allow_list(&args.allow_store).unwrap_or_else(|error| {
            errors.push(format!("--allow-store: {error}"));
            AllowList::everything()
        });
        let policy = args.policy.as_deref().map(ClusterPolicy::read).unwrap_or_else(|| Ok(ClusterPolicy::default()));
        let policy = policy.unwrap_or_else(|mistakes| {
            errors.extend(mistakes.into_iter().map(|mistake| format!("--policy: {mistake}")));
            ClusterPolicy::default()
        });
        for (flag, advertised) in [("--advertise", &args.advertise), ("--advertise-http", &args.advertise_http)] {
            if let Some(text) = advertised.as_ref().filter(|text| !is_host_and_port(text)) {
                errors.push(format!("{flag}: `{text}` is no host and port; write e.g. coordinator-0.coordinator:7070"));
            }
        }
        match (listen, http, timings, errors.is_empty()) {
            (Some(listen), Some(http), Some(timings), true) => {
                let Args { store, advertise, advertise_http, address_file, .. } = args;
                Ok(Self { store, listen, http, advertise, advertise_http, timings, address_file, allowed, policy })
            }
            _ => Err(ConfigErrors(errors)),
        }
    }
}

/// An address to listen at. Beyond loopback there is no listening without TLS and authentication.
fn address(flag: &str, text: &str, errors: &mut Vec<String>) -> Option<SocketAddr> {
    let Ok(address) = text.replace("localhost", "127.0.0.1").parse::<SocketAddr>() else {
        errors.push(format!("{flag}: `{text}` is not an address; write e.g. 127.0.0.1:7070"));
        return None;
    };
    if !address.ip().is_loopback() {
        errors.push(format!(
            "{flag}: {address} is reachable from other machines, which needs TLS and authentication; they come with a later \
             version, until then listen at 127.0.0.1 or [::1]"
        ));
        return None;
    }
    Some(address)
}

fn is_host_and_port(text: &str) -> bool {
    let is_plain = |host: &str| !host.is_empty() && !host.contains(['/', ',', ' ', '@']);
    text.rsplit_once(':').is_some_and(|(host, port)| is_plain(host) && port.parse::<u16>().is_ok_and(|port| port > 0))
}

impl TimeOuts {
    /// All time-outs, or every mistake with its flag.
    fn resolve(&self) -> Result<Timings, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut read = |flag: &str, text: &str| {
            let span = text.parse::<Span>().map_err(|error| mistakes.push(format!("--{flag}: {error}")));
            span.ok().map(|Span(time)| time)
        };
        let detection = read("detection", &self.detection);
        let mut set = |flag, text: &Option<String>| text.as_deref().and_then(|text| read(flag, text));
        let overrides = Overrides {
            heartbeat: set("heartbeat", &self.heartbeat),
            grace: set("grace", &self.grace),
            forming: set("forming", &self.forming),
            operation: set("operation", &self.operation),
            rpc: set("rpc", &self.rpc),
        };
        let Some(detection) = detection.filter(|_| mistakes.is_empty()) else { return Err(mistakes) };
        let flagged =
            |Contradictions(found)| found.into_iter().map(|contradiction| format!("--{contradiction}")).collect();
        overrides.resolve(detection).map_err(flagged)
    }
}

fn allow_list(prefixes: &[String]) -> Result<AllowList, StorageError> {
    if prefixes.is_empty() {
        return Ok(AllowList::everything());
    }
    AllowList::new(prefixes.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn args(more: &[&str]) -> Args {
        let mut line = vec!["cappa-coordinator", "--store", "/data/cappa"];
        line.extend(more);
        Args::try_parse_from(line).unwrap()
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let wrong =
            ["--listen", "0.0.0.0:7070", "--http", "nonsense", "--detection", "1ms", "--allow-store", "ftp://x"];
        let wrong = [&wrong[..], &["--advertise", "http://a:7070"]].concat();
        let ConfigErrors(errors) = Config::try_from(args(&wrong)).unwrap_err();
        let flags: Vec<_> = errors.iter().filter_map(|error| error.split(':').next()).collect();
        assert_eq!(flags, ["--listen", "--http", "--detection", "--allow-store", "--advertise"]);
    }

    #[test]
    fn time_outs_that_are_set_stay_and_those_that_contradict_each_other_are_refused() {
        let timings = |more: &[&str]| Config::try_from(args(more)).map(|config| config.timings);
        let set = timings(&["--detection", "10s", "--operation", "5m", "--heartbeat", "1s"]).unwrap();
        assert_eq!((set.operation, set.heartbeat), (Duration::from_secs(300), Duration::from_secs(1)));
        assert_eq!((set.lost_after, set.grace), (Duration::from_secs(10), Duration::from_secs(20)));
        let ConfigErrors(errors) = timings(&["--heartbeat", "3s", "--grace", "1s", "--rpc", "2m"]).unwrap_err();
        let flags: Vec<_> = errors.iter().filter_map(|error| error.split(':').next()).collect();
        assert_eq!(flags, ["--heartbeat", "--grace", "--rpc"]);
        let ConfigErrors(errors) = timings(&["--forming", "soon", "--rpc", "5"]).unwrap_err();
        assert!(errors.len() == 2 && errors[0].starts_with("--forming: `soon` is not a duration"), "{errors:?}");
    }

    #[test]
    fn listening_beyond_loopback_is_refused_for_want_of_tls() {
        for address in ["0.0.0.0:1", "192.168.0.1:1", "[::]:1"] {
            let errors = Config::try_from(args(&["--listen", address])).unwrap_err();
            assert!(errors.to_string().contains("TLS and authentication"), "{errors}");
        }
        assert!(Config::try_from(args(&["--listen", "[::1]:0", "--http", "localhost:0"])).is_ok());
    }
}
