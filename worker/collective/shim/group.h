#pragma once
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <atomic>

#include "gloo_backend.h"

struct cappa_group {
  c10::intrusive_ptr<c10d::ProcessGroup> p;
  c10::intrusive_ptr<cappa::AbortableGloo> gloo;  // for CPU tensors
  c10::intrusive_ptr<c10d::Backend> cuda;         // for CUDA tensors; null without
  std::atomic<bool> aborted{false};
};
