// The part of the shim that needs libtorch_cuda: a shared object of its own, opened at run time
// where the installation has CUDA. Only headers are needed to build it.
#define USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <cstring>

extern "C" {

// An owned c10d::Backend* whose ranks are connected, or null and a message of at most `cap` bytes.
void* cappa_nccl_backend(void* store, int rank, int size, int device, int64_t operation_ms, char* message, size_t cap) {
  try {
    auto shared = c10::intrusive_ptr<c10d::Store>::reclaim_copy(static_cast<c10d::Store*>(store));
    auto options = c10d::ProcessGroupNCCL::Options::create(/*is_high_priority_stream=*/true);
    options->timeout = std::chrono::milliseconds(operation_ms);
    options->config.blocking = 0;  // so that a communicator can be aborted at any time
    c10::intrusive_ptr<c10d::Backend> backend = c10::make_intrusive<c10d::ProcessGroupNCCL>(shared, rank, size, options);
    at::Device gpu(at::kCUDA, static_cast<at::DeviceIndex>(device));
    backend->setBoundDeviceId(gpu);
    backend->eagerConnectSingleDevice(gpu);
    return backend.release();
  } catch (const std::exception& e) {
    std::strncpy(message, e.what(), cap - 1);
    message[cap - 1] = 0;
    return nullptr;
  }
}

}  // extern "C"
