//! Position embeddings of both stacks.

use tch::{Device, Kind, Tensor};

/// The fixed table `[1, rows · columns, width]` of a grid (f32): quarters sin(column), cos(column),
/// sin(row), cos(row), with frequencies 10000^(-i / (width/4 - 1)).
pub(crate) fn sincos2d([rows, columns]: [i64; 2], width: i64, device: Device) -> Tensor {
    let quarter = width / 4;
    let frequency = |i: i64| 10_000f64.powf(-(i as f64) / (quarter - 1) as f64);
    let mut table = Vec::with_capacity(usize::try_from(rows * columns * width).unwrap_or_default());
    for row in 0..rows {
        for column in 0..columns {
            for (position, wave) in
                [(column, f64::sin as fn(f64) -> f64), (column, f64::cos), (row, f64::sin), (row, f64::cos)]
            {
                table.extend((0..quarter).map(|i| wave(position as f64 * frequency(i)) as f32));
            }
        }
    }
    Tensor::from_slice(&table).view([1, rows * columns, width]).to_kind(Kind::Float).to_device(device)
}
