//! A host of its own for every process: network namespaces on one bridge, and what goes wrong between them.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// First three numbers of every address: of the loopback's range, beyond which our programs do not listen without TLS.
const SUBNET: &str = "127.77.0";
/// The namespace in which the harness runs and the bridge is.
const HUB: &str = "hub";
const BRIDGE: &str = "bridge0";
/// Table of the rules that drop packets.
const TABLE: &str = "chaos";

/// Which packets a cut host loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// All that it sends and receives.
    Both,
    /// All that it receives.
    In,
    /// All that it sends.
    Out,
    /// Between it and the coordinator, both ways; its peers still hear it.
    Coordinator,
    /// So many of a hundred that it receives, at random.
    Some(u8),
}

/// A process's host.
#[derive(Debug, Clone)]
pub struct Host {
    /// Name of its network namespace.
    pub namespace: String,
    /// Its address.
    pub address: String,
}

/// Namespaces that this process made. Dropping it removes them.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    hosts: Vec<Host>,
}

impl Network {
    /// Makes the hub's namespace and runs this program again inside, with the same arguments; gives its exit code. Needs root.
    pub fn run_inside(arguments: &[String]) -> Result<i32> {
        let version = Command::new("nft").arg("--version").stdout(Stdio::null()).status();
        ensure!(version.is_ok_and(|version| version.success()), "partitions need nft: install nftables");
        let prefix = format!("cappa-{}", std::process::id());
        let hub = format!("{prefix}-{HUB}");
        ip(&["netns", "add", &hub]).context("network namespaces need root and iproute2")?;
        let this = std::env::current_exe()?;
        let mut again = Command::new("ip");
        again.args(["netns", "exec", &hub]).arg(this).args(arguments).args(["--inside", &prefix]);
        let ended = again.status();
        ip(&["netns", "del", &hub])?;
        Ok(ended?.code().unwrap_or(1))
    }

    /// Joins so many hosts to a bridge in this namespace; the first is the coordinator's.
    pub fn new(prefix: &str, hosts: usize) -> Result<Self> {
        route_loopback(&[])?;
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{SUBNET}.1/24"), "dev", BRIDGE])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        let mut network = Self { prefix: prefix.to_owned(), hosts: Vec::new() };
        for index in 0..hosts {
            network.join(index)?;
        }
        Ok(network)
    }

    fn join(&mut self, index: usize) -> Result<()> {
        let namespace = format!("{}-{index}", self.prefix);
        let (address, port) = (format!("{SUBNET}.{}", index + 2), port(index));
        ip(&["netns", "add", &namespace])?;
        self.hosts.push(Host { namespace: namespace.clone(), address: address.clone() });
        ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
        ip(&["link", "set", &port, "master", BRIDGE, "up"])?;
        route_loopback(&["-n", &namespace])?;
        ip(&["-n", &namespace, "addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])
    }

    /// The address of the harness itself, as the hosts see it.
    pub fn hub_address() -> String {
        format!("{SUBNET}.1")
    }

    /// The coordinator's host.
    pub fn coordinator(&self) -> &Host {
        &self.hosts[0]
    }

    /// A worker's host.
    pub fn worker(&self, index: usize) -> &Host {
        &self.hosts[index + 1]
    }

    /// Begins to lose packets of a worker's host.
    pub fn cut(&self, worker: usize, cut: Cut) -> Result<()> {
        let namespace = &self.worker(worker).namespace;
        let coordinator = &self.coordinator().address;
        let (into, out) = match cut {
            Cut::Both => ("drop".to_owned(), "drop".to_owned()),
            Cut::In => ("drop".to_owned(), String::new()),
            Cut::Out => (String::new(), "drop".to_owned()),
            Cut::Coordinator => (format!("ip saddr {coordinator} drop"), format!("ip daddr {coordinator} drop")),
            Cut::Some(percent) => (format!("numgen random mod 100 < {percent} drop"), String::new()),
        };
        let chain = |hook: &str, loopback: &str, rule: &str| {
            format!("chain {hook} {{\ntype filter hook {hook} priority 0\n{loopback} lo accept\n{rule}\n}}\n")
        };
        let rules = chain("input", "iifname", &into) + &chain("output", "oifname", &out);
        nft(namespace, &format!("table ip {TABLE} {{\n{rules}}}\n"))
    }

    /// Ends all losses of a worker's host.
    pub fn heal(&self, worker: usize) -> Result<()> {
        nft(&self.worker(worker).namespace, &format!("delete table ip {TABLE}\n"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What is left is empty and harmless.
        for (index, host) in self.hosts.iter().enumerate() {
            let _ = ip(&["link", "del", &port(index)]);
            let _ = ip(&["netns", "del", &host.namespace]);
        }
        let _ = ip(&["link", "del", BRIDGE]);
    }
}

/// The bridge's end of a host's cable.
fn port(index: usize) -> String {
    format!("port{index}")
}

/// Leaves the loopback only its first address, in a namespace (`-n NAME`) or this one, so that the others can be hosts'.
fn route_loopback(namespace: &[&str]) -> Result<()> {
    let ip_there = |arguments: &[&str]| ip(&[namespace, arguments].concat());
    ip_there(&["link", "set", "lo", "up"])?;
    // Gone already where a network was made before.
    let _ = ip_there(&["addr", "del", "127.0.0.1/8", "dev", "lo"]);
    ip_there(&["addr", "replace", "127.0.0.1/32", "dev", "lo"])?;
    let setting = "net.ipv4.conf.all.route_localnet=1";
    match namespace {
        [_, name] => ip(&["netns", "exec", name, "sysctl", "-qw", setting]),
        _ => {
            ensure!(Command::new("sysctl").args(["-qw", setting]).status()?.success(), "sysctl {setting}");
            Ok(())
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("ip (iproute2)")?;
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Applies rules in a namespace.
fn nft(namespace: &str, rules: &str) -> Result<()> {
    use std::io::Write as _;
    let mut child = Command::new("ip")
        .args(["netns", "exec", namespace, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("nft (nftables)")?;
    child.stdin.take().context("a pipe")?.write_all(rules.as_bytes())?;
    ensure!(child.wait()?.success(), "nft refused {rules}");
    Ok(())
}
