//! Groups of real processes: this test program runs itself again as each peer.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "../common/mod.rs"]
mod common;
mod peer;
mod process;

use std::thread::sleep;
use std::time::{Duration, Instant};

use cappa_collective::Store;
use process::{Peers, Step};

const LIMIT: Duration = Duration::from_secs(10);

/// What takes well under a second on a machine of one's own, and sits out no time-out: they are 10 s and more.
const SOON: Duration = Duration::from_secs(8);

#[test]
#[ignore = "the peers of the other tests"]
fn peer() {
    peer::main();
}

#[test]
fn two_three_and_four_ranks_reduce_to_what_one_process_computes() {
    let (_store, port) = Store::serve(common::HOST, 0, LIMIT).unwrap();
    for size in 2..=4 {
        let ranks: Vec<_> = (0..size)
            .map(|rank| process::spawn(&["reduce", &rank.to_string(), &size.to_string(), &port.to_string()]))
            .collect();
        for (rank, process) in ranks.into_iter().enumerate() {
            let output = process.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "rank {rank} of {size}: {said}");
        }
    }
}

#[test]
fn a_killed_peer_is_noticed_and_survivors_form_anew_in_the_same_process() {
    // The fourth comes in where the killed one was, with weights of its own at first.
    let mut peers = Peers::spawn(4);
    peers.form(0, &[0, 1, 2], Duration::from_secs(60));
    let at_loss = peers.wait_for_step(1, 0, 5);
    sleep(Duration::from_millis(5)); // into the next step
    let killed = Instant::now();
    peers.signal(1, libc::SIGKILL);
    peers.abort(&[0, 2], 0);
    let survivors = peers.wait_for_loss(&[0, 2], 0);
    peers.form(1, &[0, 2, 3], Duration::from_secs(60));
    let first: Vec<Step> = [0, 2, 3].map(|peer| peers.wait_for_step(peer, 1, 0)).into();
    assert!(killed.elapsed() < SOON, "{:?}", killed.elapsed());
    let furthest = survivors.into_iter().max().unwrap();
    assert!(furthest >= at_loss.step, "survivors had step {furthest} done, the killed one {}", at_loss.step);
    for step in &first {
        assert_eq!(step.step, furthest + 1, "no step is lost or done twice");
        assert_eq!(step.weights, first[0].weights, "the state of the furthest is everybody's");
    }
    peers.expect_quiet(&[0, 2]);
}

#[test]
fn a_stopped_peer_is_escaped_by_an_ordered_abort() {
    let mut peers = Peers::spawn(3);
    peers.form(0, &[0, 1, 2], Duration::from_secs(60));
    peers.wait_for_step(1, 0, 5);
    let stopped = Instant::now();
    peers.signal(1, libc::SIGSTOP);
    sleep(Duration::from_millis(500)); // as long as it takes to miss a heartbeat
    peers.abort(&[0, 2], 0);
    peers.wait_for_loss(&[0, 2], 0);
    peers.form(1, &[0, 2], Duration::from_secs(60));
    let first: Vec<Step> = [0, 2].map(|peer| peers.wait_for_step(peer, 1, 0)).into();
    assert!(stopped.elapsed() < SOON, "{:?}", stopped.elapsed());
    assert_eq!(first[0].weights, first[1].weights);
    peers.expect_quiet(&[0, 2]);
}

/// A survivor of a group of two, whose peer stands still, ends or stays at a random moment of forming, of the
/// first broadcast, of the reducer's construction or of the steps after it, leaves when it is told to.
/// `CAPPA_STRESS_ROUNDS` sets the number of rounds.
#[test]
fn an_abort_holds_at_any_moment_of_forming() {
    const DRAWN: Duration = Duration::from_millis(60);
    let rounds = std::env::var("CAPPA_STRESS_ROUNDS").map_or(120, |rounds| rounds.parse().unwrap());
    // Time-outs that no round may sit out.
    let limit = Duration::from_secs(60);
    let mut peers = Peers::spawn(2);
    let mut random = 0x9e37_79b9_u64;
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = DRAWN.mul_f64((random >> 40) as f64 / f64::from(1 << 24));
        let fate = if round % 24 == 23 { libc::SIGKILL } else { [libc::SIGSTOP, 0][round % 2] };
        let lead = round / 2 % 2; // the store is the survivor's, or its peer's
        peers.form(round, &[lead, 1 - lead], limit);
        sleep(moment);
        if fate != 0 {
            peers.signal(1, fate);
        }
        let told = Instant::now();
        peers.abort(&[0], round);
        peers.wait_for_loss(&[0], round);
        let took = told.elapsed();
        assert!(took < SOON, "round {round}, {moment:?} into forming, signal {fate}: {took:?}");
        slowest = slowest.max(took);
        if fate == libc::SIGKILL {
            peers.replace(1);
            continue;
        }
        if fate == libc::SIGSTOP {
            peers.signal(1, libc::SIGCONT);
        }
        peers.abort(&[1], round);
        peers.wait_for_loss(&[1], round);
    }
    eprintln!("{rounds} rounds, the slowest answer to an abort {slowest:?}");
    // What was left behind by all the aborts holds up neither the next group nor the end of the process.
    peers.form(rounds, &[0, 1], limit);
    peers.wait_for_step(0, rounds, 1);
    peers.expect_clean_end(&[0, 1]);
}
