//! `x · kernel + bias`, by the fastest exact product of the device.
//!
//! T tokens, I inputs, O outputs of the layer.

use tch::{Device, Kind, Tensor};

/// Fewer rows than this gain nothing from oneDNN's reordering of the kernel.
const MIN_ROWS: i64 = 256;
/// With one thread, ATen gives convolutions to oneDNN from this batch size on.
const MIN_BATCH: i64 = 16;

/// `x [R, T, I] · kernel [I, O] + bias [O]` → `[R, T, O]`.
///
/// In f32 on the CPU, ATen's matrix products are MKL's, which runs AVX2 kernels on processors of
/// other makers; its convolutions are oneDNN's, which asks the processor what it can do. A 1 × 1
/// convolution over channels-last data is the same product, and twice as fast with AVX-512 there;
/// without, it only costs the reordering.
pub(crate) fn linear(x: &Tensor, kernel: &Tensor, bias: Option<&Tensor>) -> Tensor {
    match convolution_shape(x).filter(|_| has_avx512()) {
        Some((batch, tokens)) => convolution(x, kernel, bias, batch, tokens),
        None => x.linear(&kernel.tr(), bias),
    }
}

/// Whether the processor has the vectors that make the detour pay.
fn has_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Batch and rows per batch under which the product pays as a convolution.
fn convolution_shape(x: &Tensor) -> Option<(i64, i64)> {
    if x.device() != Device::Cpu || x.kind() != Kind::Float || x.dim() != 3 {
        return None;
    }
    let (batch, tokens, _) = x.size3().ok()?;
    let rows = batch * tokens;
    if rows < MIN_ROWS {
        None
    } else if batch >= MIN_BATCH {
        Some((batch, tokens))
    } else {
        (rows % MIN_BATCH == 0).then_some((MIN_BATCH, rows / MIN_BATCH))
    }
}

fn convolution(x: &Tensor, kernel: &Tensor, bias: Option<&Tensor>, batch: i64, tokens: i64) -> Tensor {
    let size = x.size();
    let (inputs, outputs) = (kernel.size()[0], kernel.size()[1]);
    let x = x.reshape([batch, tokens, 1, inputs]).permute([0, 3, 1, 2]);
    let kernel = kernel.tr().reshape([outputs, inputs, 1, 1]);
    let y = x.conv2d(&kernel, bias, [1, 1], [0, 0], [1, 1], 1);
    y.permute([0, 2, 3, 1]).reshape([size[0], size[1], outputs])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_convolution_is_the_matrix_product() {
        tch::manual_seed(1);
        for [batch, tokens] in [[16, 20], [4, 80], [3, 5]] {
            let x = Tensor::randn([batch, tokens, 24], (Kind::Float, Device::Cpu));
            let kernel = Tensor::randn([24, 40], (Kind::Float, Device::Cpu));
            let bias = Tensor::randn([40], (Kind::Float, Device::Cpu));
            let product = x.matmul(&kernel) + &bias;
            let convolved =
                convolution_shape(&x).map(|(batch, tokens)| convolution(&x, &kernel, Some(&bias), batch, tokens));
            for y in convolved.into_iter().chain([linear(&x, &kernel, Some(&bias))]) {
                let error = (y - &product).abs().max().double_value(&[]);
                assert!(error < 1e-5, "{batch} x {tokens}: {error}");
            }
        }
    }
}
