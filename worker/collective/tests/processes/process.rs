//! The tests' side: starts peers, orders them about and hears what they say.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Peers say lines that begin with this; the test harness says others.
pub(crate) const MARK: &str = "peer: ";
/// Holds a peer's arguments.
pub(crate) const ARGUMENTS: &str = "CAPPA_TEST_PEER";

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn spawn(arguments: &[&str]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "peer", "--ignored", "--nocapture"])
        .env(ARGUMENTS, arguments.join(" "))
        .env("OMP_NUM_THREADS", "1")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// One finished step of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) step: i64,
    /// The bits of the sum of all weights.
    pub(crate) weights: String,
}

struct Peer {
    child: Child,
    said: Receiver<Vec<String>>,
    port: u16,
}

/// Training peers, killed at the end whatever happens.
pub(crate) struct Peers(Vec<Peer>);

impl Peers {
    pub(crate) fn spawn(count: usize) -> Peers {
        let mut peers = Peers((0..count).map(|seed| start(&["train", &seed.to_string()])).collect());
        for peer in 0..count {
            peers.0[peer].port = peers.wait_for(peer, "store")[1].parse().unwrap();
        }
        peers
    }

    /// Orders the peers to form a group, ranks in the order given, at the first one's store, and to train.
    pub(crate) fn form(&mut self, generation: usize, members: &[usize], operation: Duration) {
        let (port, size, limit) = (self.0[members[0]].port, members.len(), operation.as_millis());
        for (rank, peer) in members.iter().enumerate() {
            self.order(*peer, &format!("form {generation} {rank} {size} {port} {limit}"));
        }
    }

    /// Orders peers out of a generation, which they may not have begun to form yet.
    pub(crate) fn abort(&mut self, peers: &[usize], generation: usize) {
        for peer in peers {
            self.order(*peer, &format!("abort {generation}"));
        }
    }

    /// Starts another process where one was killed.
    pub(crate) fn replace(&mut self, peer: usize) {
        let _reaped = self.0[peer].child.wait();
        self.0[peer] = start(&["train", "0"]);
        self.0[peer].port = self.wait_for(peer, "store")[1].parse().unwrap();
    }

    /// Lets the peers end by themselves, in the middle of what they do, without a crash.
    pub(crate) fn expect_clean_end(mut self, peers: &[usize]) {
        for peer in peers {
            drop(self.0[*peer].child.stdin.take());
        }
        for peer in peers {
            let status = self.0[*peer].child.wait().unwrap();
            let mut noise = String::new();
            self.0[*peer].child.stderr.take().unwrap().read_to_string(&mut noise).unwrap();
            assert!(status.success(), "peer {peer}: {status}\n{noise}");
        }
    }

    /// The first step of the generation that is at least `least`.
    pub(crate) fn wait_for_step(&mut self, peer: usize, generation: usize, least: i64) -> Step {
        loop {
            let words = self.wait_for(peer, "step");
            let step: i64 = words[2].parse().unwrap();
            if words[1] == generation.to_string() && step >= least {
                return Step { step, weights: words[3].clone() };
            }
        }
    }

    /// Waits until the peers say that they lost their group; gives the step each had done.
    pub(crate) fn wait_for_loss(&mut self, peers: &[usize], generation: usize) -> Vec<i64> {
        let mut steps = Vec::new();
        for peer in peers {
            let words = self.wait_for(*peer, "lost");
            assert_eq!(words[1], generation.to_string());
            steps.push(words[2].parse().unwrap());
        }
        steps
    }

    pub(crate) fn signal(&mut self, peer: usize, signal: i32) {
        let id = i32::try_from(self.0[peer].child.id()).unwrap();
        // SAFETY: takes integers; the child is not waited for yet, so the id is still its own.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0);
    }

    /// Ends the peers, none of which may have said anything on stderr.
    pub(crate) fn expect_quiet(mut self, peers: &[usize]) {
        for peer in peers {
            let child = &mut self.0[*peer].child;
            child.kill().unwrap();
            let mut noise = String::new();
            child.stderr.take().unwrap().read_to_string(&mut noise).unwrap();
            assert_eq!(noise, "", "stderr of peer {peer}");
        }
    }

    fn order(&mut self, peer: usize, order: &str) {
        writeln!(self.0[peer].child.stdin.as_mut().unwrap(), "{order}").unwrap();
    }

    /// The words of the peer's next line of that kind; others are passed over.
    fn wait_for(&mut self, peer: usize, kind: &str) -> Vec<String> {
        loop {
            match self.0[peer].said.recv_timeout(PATIENCE) {
                Ok(words) if words[0] == kind => return words,
                Ok(words) => assert_ne!(words[0], "failed", "peer {peer}: {words:?}"),
                Err(why) => panic!("peer {peer} did not say {kind:?}: {why}"),
            }
        }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        for peer in &mut self.0 {
            let _ended = peer.child.kill();
            let _reaped = peer.child.wait();
        }
    }
}

fn start(arguments: &[&str]) -> Peer {
    let mut child = spawn(arguments);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (say, said) = channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            // libtest leaves its "test peer ... " unfinished, so the first mark can be in mid-line.
            if let Some((_, words)) = line.split_once(MARK)
                && say.send(words.split(' ').map(str::to_owned).collect()).is_err()
            {
                return;
            }
        }
    });
    Peer { child, said, port: 0 }
}
