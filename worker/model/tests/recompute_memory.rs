//! What gradient checkpointing is for. Alone in its process: the peak is the process's.

mod common;

use cappa_model::{Captioner, ModelConfig, Tape};
use common::batch;
use tch::Device;

/// Kilobytes of the process, now or at most since the last reset.
fn resident(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells of processes");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a field of status");
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("kilobytes")
}

/// By how many kilobytes a step raises the process above what it was before.
fn peak(captioner: &Captioner, recompute: bool) -> u64 {
    let data = batch(captioner.config(), 64);
    std::fs::write("/proc/self/clear_refs", "5").expect("a process may reset its own peak");
    let before = resident("VmRSS");
    let mut tape = Tape::new(recompute);
    let loss = captioner.loss_taped(&data, 0.0, &mut tape).expect("a fitting batch");
    tape.backward(&loss.sum).expect("a graph");
    resident("VmHWM") - before
}

#[test]
fn recomputation_takes_less_than_half_the_memory_of_a_deep_network() {
    let config =
        ModelConfig { layers: 10, decoder_layers: 6, width: 128, mlp: 512, decoder_width: 128, ..ModelConfig::tiny() };
    let captioner = Captioner::new(&config, 3, Device::Cpu).expect("a network");
    // The gradients themselves, and what libtorch keeps, are there before anything is compared.
    peak(&captioner, true);
    let (recomputed, kept) = (peak(&captioner, true), peak(&captioner, false));
    println!("a step of 16 blocks on 64 images: {} MiB kept, {} MiB recomputed", kept >> 10, recomputed >> 10);
    assert!(2 * recomputed < kept, "{recomputed} kB recomputed, {kept} kB kept");
}
