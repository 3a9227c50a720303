// How C++ failures reach Rust: a code, and a message kept for the calling thread.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace cappa {

enum Code { OK = 0, TORCH = 1, COLLECTIVE = 2, STORE = 3, NETWORK = 4, ABORTED = 5 };

struct Aborted : std::runtime_error {
  Aborted() : std::runtime_error("the group was aborted") {}
};

// A peer is gone or an operation outlasted its limit.
struct Lost : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::string& last_error();  // of the calling thread

int current_exception_code() noexcept;  // inside a catch block; sets last_error

// Runs `f`, turning every C++ exception into a code and a message: none may cross into Rust.
template <class F>
int guard(F&& f) noexcept {
  try {
    f();
    return OK;
  } catch (...) {
    return current_exception_code();
  }
}

// Tensors as Rust passes them: `n` borrowed at::Tensor*.
inline std::vector<at::Tensor> tensors(void* const* p, int n) {
  std::vector<at::Tensor> list;
  list.reserve(n);
  for (int i = 0; i < n; i++) list.push_back(*static_cast<at::Tensor*>(p[i]));
  return list;
}

// Gives tensors to Rust, which frees each.
inline void give(std::vector<at::Tensor> list, void** out) {
  for (size_t i = 0; i < list.size(); i++) out[i] = new at::Tensor(std::move(list[i]));
}

}  // namespace cappa
