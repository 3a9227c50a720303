//! Stores and groups whose ranks are threads of one process.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[allow(dead_code)]
mod common;

use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use cappa_collective::{AbortHandle, Error, Group, Op, Store, Timeouts};
use common::{FLOAT, HOST, member, timeouts};
use tch::{Device, Kind, Tensor};

const LIMIT: Duration = Duration::from_secs(10);

fn serve() -> (Store, u16) {
    cappa_collective::init();
    Store::serve(HOST, 0, LIMIT).unwrap()
}

fn form(store: &Store, rank: usize, size: usize) -> Group {
    Group::gloo(store, member(rank, size), timeouts(LIMIT), &AbortHandle::new()).unwrap()
}

/// Runs `rank` on as many threads, each with its group.
fn ranks(size: usize, rank: impl Fn(Group) + Sync) {
    let store = serve().0;
    let rank = &rank;
    thread::scope(|scope| {
        for r in 0..size {
            let store = store.clone();
            scope.spawn(move || rank(form(&store, r, size)));
        }
    });
}

#[test]
fn collectives_mean_what_they_say() {
    ranks(3, |group| {
        let rank = group.rank() as i64;
        let reduce = |op| {
            let t = Tensor::full([4], rank, FLOAT);
            group.all_reduce(&t, op).unwrap();
            t.double_value(&[3])
        };
        assert_eq!((reduce(Op::Sum), reduce(Op::Avg)), (3.0, 1.0));
        assert_eq!((reduce(Op::Min), reduce(Op::Max)), (0.0, 2.0));
        let t = Tensor::full([2], rank, (Kind::Int64, Device::Cpu));
        group.broadcast(&t, 2).unwrap();
        assert_eq!(t.int64_value(&[1]), 2);
        let all = group.all_gather(&Tensor::from_slice(&[rank])).unwrap();
        assert_eq!(all.iter().map(|t| t.int64_value(&[0])).collect::<Vec<_>>(), [0, 1, 2]);
        group.barrier().unwrap();
        assert!(matches!(group.broadcast(&t, 3), Err(Error::Torch(_))));
        assert_eq!(group.failure(), None);
    });
}

#[test]
fn a_list_of_tensors_of_any_type_is_broadcast_in_place() {
    ranks(2, |group| {
        let state = |fill: i64| {
            let of = |kind| Tensor::full([5, 3], fill, (kind, Device::Cpu));
            let kinds = [Kind::Float, Kind::BFloat16, Kind::Half, Kind::Int64, Kind::Double, Kind::Bool, Kind::Uint8];
            let mut list: Vec<Tensor> = kinds.into_iter().map(of).collect();
            list.push(Tensor::full([], fill, FLOAT));
            list.push(Tensor::full([0, 4], fill, FLOAT));
            list.push(Tensor::full([4, 6], fill, FLOAT).tr());
            list.push(Tensor::full([3], fill, FLOAT).set_requires_grad(true));
            list
        };
        let list = state(group.rank() as i64);
        group.broadcast_all(&list, 1).unwrap();
        for (got, want) in list.iter().zip(state(1)) {
            assert!(got.equal(&want), "{got:?}");
        }
        assert!(list[10].requires_grad());
        group.broadcast_all::<Tensor>(&[], 0).unwrap();
    });
}

#[test]
fn one_rank_is_a_group() {
    ranks(1, |group| {
        let t = Tensor::full([2], 7.0, FLOAT);
        group.all_reduce(&t, Op::Avg).unwrap();
        group.broadcast_all(&[t.shallow_clone()], 0).unwrap();
        group.barrier().unwrap();
        assert_eq!(t.double_value(&[0]), 7.0);
        assert_eq!(group.all_gather(&t).unwrap().len(), 1);
    });
}

#[test]
fn an_aborted_group_refuses_further_operations() {
    ranks(2, |group| {
        group.barrier().unwrap();
        group.abort();
        group.abort();
        let t = Tensor::zeros([2], FLOAT);
        assert_eq!(group.all_reduce(&t, Op::Sum), Err(Error::Aborted));
        assert_eq!(group.broadcast(&t, 0), Err(Error::Aborted));
        assert_eq!(group.broadcast_all(&[&t], 0), Err(Error::Aborted));
        assert_eq!(group.all_gather(&t).err(), Some(Error::Aborted));
        assert_eq!(group.barrier(), Err(Error::Aborted));
        assert_eq!(group.failure(), Some(Error::Aborted));
    });
}

#[test]
fn an_operation_that_waits_for_a_peer_ends_with_an_abort() {
    let (over, is_over) = mpsc::channel::<()>();
    let (over, is_over) = (Mutex::new(Some(over)), Mutex::new(is_over));
    ranks(2, |group| {
        if group.rank() == 0 {
            // Never joins the reduction, as a hung peer; ends with the other rank, however that ends.
            is_over.lock().unwrap().recv().unwrap_err();
            return;
        }
        let _over = over.lock().unwrap().take();
        let (abort, began) = (group.abort_handle(), Instant::now());
        let ordered = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            abort.abort();
        });
        let outcome = group.all_reduce(&Tensor::zeros([1 << 20], FLOAT), Op::Sum);
        assert_eq!(outcome, Err(Error::Aborted));
        assert!(began.elapsed() < LIMIT / 2, "{:?}", began.elapsed());
        ordered.join().unwrap();
    });
}

#[test]
fn forming_ends_with_an_abort_and_the_store_stays_of_use() {
    let store = serve().0;
    let (abort, began) = (AbortHandle::new(), Instant::now());
    let ordered = abort.clone();
    let thread = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        ordered.abort();
    });
    let alone = store.prefix("0").unwrap();
    let outcome = Group::gloo(&alone, member(0, 2), timeouts(LIMIT), &abort);
    assert_eq!(outcome.err(), Some(Error::Aborted));
    thread.join().unwrap();
    let outcome = Group::gloo(&alone, member(0, 2), timeouts(LIMIT), &abort);
    assert_eq!(outcome.err(), Some(Error::Aborted), "a handle that was used up forms nothing");
    // Although the first forming still waits for its peer on a thread of its own.
    form(&store.prefix("1").unwrap(), 0, 1).barrier().unwrap();
    store.set("key", b"value").unwrap();
    assert!(began.elapsed() < LIMIT / 2, "{:?}", began.elapsed());
}

#[test]
fn a_peer_that_never_comes_costs_the_forming_limit_only() {
    let store = serve().0;
    let (form, operation) = (Duration::from_millis(300), Duration::from_secs(60));
    let began = Instant::now();
    let outcome = Group::gloo(&store, member(0, 2), Timeouts { form, operation }, &AbortHandle::new());
    assert!(outcome.unwrap_err().is_group_lost());
    assert!(began.elapsed() < LIMIT / 2, "{:?}", began.elapsed());
}

#[test]
fn a_store_keeps_generations_apart_until_they_are_cleared() {
    let (store, port) = serve();
    let client = Store::connect(HOST, port, LIMIT).unwrap();
    let (old, new) = (store.prefix("1").unwrap(), client.prefix("11").unwrap());
    old.set("key", b"old").unwrap();
    new.set("key", b"").unwrap();
    assert_eq!(client.prefix("1").unwrap().get("key").unwrap(), b"old");
    assert_eq!((new.add("sum", 2).unwrap(), store.prefix("11").unwrap().add("sum", 3).unwrap()), (2, 5));
    assert_eq!(old.clear().unwrap(), 1);
    assert_eq!(new.get("key").unwrap(), b"", "of a prefix that begins alike");
    let gone = old.wait("key", Duration::from_millis(50)).unwrap_err();
    assert!(gone.is_group_lost(), "{gone}");
    assert!(matches!(store.prefix("a\0b"), Err(Error::Name(_))));
}
