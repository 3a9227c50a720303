//! The peers' side: what each of the processes does.

use std::convert::Infallible;
use std::io::stdin;
use std::str::FromStr;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cappa_collective::{AbortHandle, Group, Reducer, ReducerOptions, Result, Store, Timeouts, Wire};
use tch::{Kind, Tensor};

use crate::common::{HOST, Net, examples, member, timeouts};
use crate::process::{ARGUMENTS, MARK};

const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn main() {
    cappa_collective::init();
    tch::set_num_threads(1);
    let arguments = std::env::var(ARGUMENTS).expect("peers are started by the other tests");
    let words: Vec<&str> = arguments.split(' ').collect();
    match words[0] {
        "reduce" => reduce(number(words[1]), number(words[2]), number(words[3])),
        "train" => train(number(words[1])),
        other => panic!("no peer is called {other}"),
    }
}

fn number<T: FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("{word} is not a number"))
}

/// A way to reduce that is checked against one process with the whole batch.
struct Case {
    options: ReducerOptions,
    /// Whether the network has a parameter that the loss does not use.
    idle: bool,
    micro_batches: i64,
    /// Relative to the largest gradient.
    tolerance: f64,
}

fn cases() -> [Case; 5] {
    let plain = ReducerOptions::default();
    let small = ReducerOptions { bucket_bytes: 16 << 10, first_bucket_bytes: 4 << 10, ..plain };
    let case = |options| Case { options, idle: false, micro_batches: 1, tolerance: 1e-6 };
    [
        case(plain),
        case(ReducerOptions { gradient_as_bucket_view: false, ..small }),
        Case { idle: true, ..case(ReducerOptions { find_unused: true, ..plain }) },
        Case { micro_batches: 3, ..case(small) },
        Case { tolerance: 2e-2, ..case(ReducerOptions { wire: Wire::BFloat16, ..plain }) },
    ]
}

fn reduce(rank: usize, size: usize, port: u16) {
    let store = Store::connect(HOST, port, LIMIT).unwrap().prefix(&format!("{size} ranks")).unwrap();
    let group = Group::gloo(&store, member(rank, size), timeouts(LIMIT), &AbortHandle::new()).unwrap();
    for case in cases() {
        compare(&group, &case);
    }
    group.barrier().unwrap();
}

fn compare(group: &Group, case: &Case) {
    let (rank, size) = (group.rank() as i64, group.size() as i64);
    let (net, whole) = (Net::new(rank, 96, case.idle), Net::new(0, 96, case.idle));
    group.broadcast_all(&net.params, 0).unwrap();
    let mut reducer = Reducer::new(group, &net.params, case.options).unwrap();
    // Rank r has 2 + r examples of each micro-batch, so ranks weigh differently.
    let (begin, own) = ((0..rank).map(|r| 2 + r).sum(), 2 + rank);
    let count: i64 = (0..size).map(|r| 2 + r).sum();
    let global = (count * case.micro_batches) as f64;
    for step in 0..3 {
        for micro in 0..case.micro_batches {
            let (x, y) = examples(100 * step + micro, count);
            let local = || net.loss(&x.narrow(0, begin, own), &y.narrow(0, begin, own)) * (size as f64 / global);
            if micro + 1 == case.micro_batches {
                let _loss = reducer.step(local).unwrap();
            } else {
                local().backward();
            }
            (whole.loss(&x, &y) / global).backward();
        }
        let (ours, theirs) = (net.gradients(), whole.gradients());
        let ours = ours.narrow(0, 0, theirs.size()[0]); // a parameter out of use has a zero gradient, or none
        let off = (&ours - &theirs).abs().max() / theirs.abs().max();
        assert!(off.double_value(&[]) <= case.tolerance, "step {step}: off by {off:?} of the largest gradient");
        let bits = |t: &Tensor| t.view_dtype(Kind::Int);
        for peer in group.all_gather(&ours).unwrap() {
            assert!(bits(&peer).equal(&bits(&ours)), "step {step}: ranks differ");
        }
        // The same numbers on both sides from here on, so that the next step compares only itself.
        net.update(0.05);
        whole.update(0.0);
        tch::no_grad(|| net.params.iter().zip(&whole.params).for_each(|(p, q)| q.shallow_clone().copy_(p)));
    }
}

/// What a training peer keeps from one generation to the next.
struct Trainer {
    net: Net,
    step: Tensor,
    store: Store,
    port: u16,
}

/// The newest generation that was given up, and how to abort the one that the trainer is in.
#[derive(Default)]
struct Interrupt {
    barred: i64,
    current: Option<AbortHandle>,
}

/// Trains in one group after another as ordered on stdin, and says on stdout how far it got.
fn train(seed: i64) {
    let (store, port) = Store::serve(HOST, 0, LIMIT).unwrap();
    let mut trainer = Trainer { net: Net::new(seed, 256, false), step: Tensor::from_slice(&[0i64]), store, port };
    let interrupt = Arc::new(Mutex::new(Interrupt { barred: -1, current: None }));
    let (orders, ordered) = channel();
    let in_force = interrupt.clone();
    std::thread::spawn(move || {
        for line in stdin().lines().map_while(std::result::Result::ok) {
            match line.strip_prefix("abort ") {
                Some(generation) => {
                    let mut interrupt = in_force.lock().unwrap();
                    interrupt.barred = number(generation);
                    if let Some(abort) = interrupt.current.take() {
                        abort.abort();
                    }
                }
                None => orders.send(line).unwrap(),
            }
        }
        cappa_collective::exit(0); // the test is over
    });
    println!("\n{MARK}store {port}");
    for order in ordered {
        let words: Vec<&str> = order.split(' ').collect();
        let abort = AbortHandle::new();
        {
            let mut interrupt = interrupt.lock().unwrap();
            if interrupt.barred >= number(words[1]) {
                abort.abort();
            }
            interrupt.current = Some(abort.clone());
        }
        match trainer.generation(&words, &abort) {
            Err(lost) if lost.is_group_lost() => println!("{MARK}lost {} {}", words[1], trainer.step.int64_value(&[0])),
            Err(other) => println!("{MARK}failed {other}"),
        }
    }
}

impl Trainer {
    /// `form GENERATION RANK SIZE PORT LIMIT`: trains until the group is lost.
    fn generation(&mut self, order: &[&str], abort: &AbortHandle) -> Result<Infallible> {
        let (rank, size, port) = (number(order[2]), number(order[3]), number(order[4]));
        let limit = Duration::from_millis(number(order[5]));
        let store =
            if port == self.port { self.store.clone() } else { Store::connect_until(abort, HOST, port, limit)? };
        let timeouts = Timeouts { form: limit, operation: limit };
        let group = Group::gloo(&store.prefix(order[1])?, member(rank, size), timeouts, abort)?;
        self.share_state(&group)?;
        let params = &self.net.params;
        let mut reducer = Reducer::new(&group, params, ReducerOptions::default())?;
        loop {
            let step = self.step.int64_value(&[0]) + 1;
            let (x, y) = examples(step * 10 + rank as i64, 64);
            let _loss = reducer.step(|| self.net.loss(&x, &y))?;
            self.net.update(0.001);
            self.step = Tensor::from_slice(&[step]);
            let sum: f64 = params.iter().map(|p| p.sum(Kind::Double).double_value(&[])).sum();
            println!("{MARK}step {} {step} {:x}", order[1], sum.to_bits());
        }
    }

    /// Survivors can be a step apart: the furthest gives its state to all.
    fn share_state(&self, group: &Group) -> Result<()> {
        let steps: Vec<i64> = group.all_gather(&self.step)?.iter().map(|t| t.int64_value(&[0])).collect();
        let furthest = (0..steps.len()).max_by_key(|rank| steps[*rank]).expect("a group has ranks");
        let state: Vec<&Tensor> = self.net.params.iter().chain([&self.step]).collect();
        group.broadcast_all(&state, furthest)
    }
}
