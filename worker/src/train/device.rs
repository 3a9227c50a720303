//! Whether an error is of the device itself: a GPU that failed, or a CUDA context that answers nothing any more but the same error.
//! Such a process can't go on; another one may.

use tch::{Device, Kind, Tensor};

use super::outcome::says_out_of_memory;

/// What comes before an error of CUDA's runtime, or of its libraries, in libtorch's messages (`c10_cuda_check_implementation`,
/// `TORCH_CUDABLAS_CHECK`).
const CUDA_ERROR: &str = "CUDA error: ";

/// What `cudaGetErrorString` says of errors that leave "the process in an inconsistent state": "any further CUDA work will return the
/// same error" (CUDA runtime API, `cudaError`).
const FATAL: [&str; 11] = [
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error detected during the execution",
    "an illegal memory access was encountered",
    "the launch timed out and was terminated",
    "device-side assert triggered",
    "hardware stack error",
    "an illegal instruction was encountered",
    "misaligned address",
    "operation not supported on global/shared address space",
    "invalid program counter",
    "unspecified launch failure",
];

/// What may be the device's fault as well as the job's, the program's (an invalid launch), or a peer's that is gone. The last two are
/// NCCL's.
const DOUBTFUL: [&str; 5] =
    [CUDA_ERROR, "CUDA driver error: ", "cuDNN error: ", "unhandled cuda error", "unhandled system error"];

/// The part of an error that names the fault of the device, if that is what it is of. Where the text alone does not tell, it
/// depends on whether the device still `answers`. Memory that does not suffice is no such fault: it doesn't elsewhere either.
pub(super) fn fault(text: &str, answers: impl FnOnce() -> bool) -> Option<String> {
    if says_out_of_memory(text) {
        return None;
    }
    let is_fatal = |said: &str| FATAL.iter().any(|error| said.starts_with(error));
    if text.split(CUDA_ERROR).skip(1).any(is_fatal) {
        return Some(from(text, CUDA_ERROR));
    }
    let doubtful = DOUBTFUL.into_iter().find(|mark| text.contains(mark))?;
    (!answers()).then(|| from(text, doubtful))
}

/// Whether the device still computes. One that is lost, or whose context is broken, answers whatever it is asked with an error.
pub(super) fn answers(device: Device) -> bool {
    let asked = || Tensor::f_zeros([1], (Kind::Float, device))?.f_to_device(Device::Cpu);
    asked().map_or_else(|error| says_out_of_memory(&error.to_string()), |_| true)
}

/// The rest of the line from a mark on, without libtorch's hints and its stack of C++ calls; in a panic's message line ends are escaped.
fn from(text: &str, mark: &str) -> String {
    let text = &text[text.find(mark).unwrap_or_default()..];
    let end = ["\\n", "\n", "\")"].iter().filter_map(|mark| text.find(mark)).min();
    text[..end.unwrap_or(text.len())].trim_end_matches([' ', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `c10::AcceleratorError::what` has it in libtorch 2.11.
    fn accelerator_error(error: &str, name: &str) -> String {
        format!(
            "CUDA error: {error}\nSearch for `{name}' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html \
             for more information.\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below \
             might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to enable \
             device-side assertions.\n\nException raised from c10_cuda_check_implementation at \
             /pytorch/c10/cuda/CUDAException.cpp:44 (most recent call first):\nframe #0: c10::Error::Error(c10::SourceLocation, \
             std::string) + 0x9d (0x7f3a2d9a1e8d in libc10.so)"
        )
    }

    /// What the text is taken for where the device answers, and where it doesn't.
    fn told(text: &str) -> [Option<String>; 2] {
        [true, false].map(|answers| fault(text, || answers))
    }

    #[test]
    fn errors_that_break_a_context_are_the_devices_without_asking_it() {
        for (error, name) in [
            ("an illegal memory access was encountered", "cudaErrorIllegalAddress"),
            ("device-side assert triggered", "cudaErrorAssert"),
            ("uncorrectable ECC error encountered", "cudaErrorECCUncorrectable"),
            ("unspecified launch failure", "cudaErrorLaunchFailure"),
            ("misaligned address", "cudaErrorMisalignedAddress"),
        ] {
            let told = fault(&accelerator_error(error, name), || panic!("a broken context may hang"));
            assert_eq!(told, Some(format!("CUDA error: {error}")));
        }
        let panic = "called `Result::unwrap()` on an `Err` value: Torch(\"CUDA error: device-side assert triggered\\nSearch for\")";
        assert_eq!(fault(panic, || true).unwrap(), "CUDA error: device-side assert triggered");
    }

    #[test]
    fn errors_of_which_the_text_does_not_tell_are_the_devices_where_it_does_not_answer() {
        let nccl = |error: &str| {
            format!(
                "collective failed, form a new group: NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:133, {error} \
                 (run with NCCL_DEBUG=INFO for details), NCCL version 2.28.9"
            )
        };
        let cublas =
            "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`";
        for (text, expected) in [
            (accelerator_error("unknown error", "cudaErrorUnknown"), "CUDA error: unknown error"),
            (
                accelerator_error("invalid configuration argument", "cudaErrorInvalidConfiguration"),
                "CUDA error: invalid",
            ),
            (cublas.to_owned(), "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
            ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED".to_owned(), "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
            (nccl("unhandled cuda error"), "unhandled cuda error (run with"),
            (nccl("unhandled system error"), "unhandled system error (run with"),
        ] {
            let [answers, silent] = told(&text);
            assert_eq!(answers, None, "{text}");
            assert!(silent.as_ref().is_some_and(|told| told.starts_with(expected)), "{silent:?}");
        }
    }

    #[test]
    fn too_little_memory_and_mistakes_of_the_program_are_no_fault_of_the_device() {
        for text in [
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.18 GiB of which 1.2 GiB is free.",
            &accelerator_error("out of memory", "cudaErrorMemoryAllocation"),
            "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
            "The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 1",
            "NCCL error in: NCCLUtils.cpp:133, remote process exited or there was a network error, NCCL version 2.28.9",
            "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:533] Connection closed by peer [127.0.0.1]:41234",
        ] {
            assert_eq!(told(text), [None, None], "{text}");
        }
    }

    #[test]
    fn a_device_that_works_answers() {
        assert!(answers(Device::Cpu));
    }
}
