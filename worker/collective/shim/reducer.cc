// DDP's gradient reducer: buckets gradients and all-reduces each bucket while backward still runs.
#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include "error.h"
#include "group.h"

using c10::intrusive_ptr;
using cappa::guard;
using cappa::tensors;

namespace {

using Buckets = std::vector<std::vector<size_t>>;

// Halves what the wire carries; bf16 keeps float32's range, so no loss scaling is needed.
class Bf16Hook final : public c10d::CppCommHookInterface<intrusive_ptr<c10d::ProcessGroup>> {
 public:
  using CppCommHookInterface::CppCommHookInterface;
  intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    std::vector<at::Tensor> half{bucket.getBuffer().to(at::kBFloat16).div_(state_->getSize())};
    auto full = bucket.getBuffer();
    return state_->allreduce(half)->getFuture()->then(
        [full](c10::ivalue::Future& done) {
          full.copy_(c10d::detail::parseCppCommHookResult(done.value()));
          return c10::IValue(full);
        },
        c10::TensorType::get());
  }
};

// Gradients become ready last parameter first, so buckets are handed over in reverse.
Buckets assign(const std::vector<at::Tensor>& params, int64_t first, int64_t cap) {
  auto [buckets, limits] = c10d::compute_bucket_assignment_by_size(
      params, {static_cast<size_t>(first), static_cast<size_t>(cap)}, std::vector<bool>(params.size()));
  return {buckets.rbegin(), buckets.rend()};
}

}  // namespace

struct cappa_reducer {
  std::unique_ptr<c10d::Reducer> p;
  bool find_unused = false;
  bool armed = false;  // between prepare_backward and finish
};

extern "C" {

struct cappa_reducer_options {
  int64_t bucket_bytes;
  int64_t first_bucket_bytes;
  int find_unused;
  int gradient_as_bucket_view;
  int bf16_wire;
};

int cappa_reducer_new(cappa_group* g, void** params, int n, const cappa_reducer_options* o, cappa_reducer** out) {
  return guard([&] {
    auto list = tensors(params, n);
    c10d::verify_params_across_processes(g->p, list, {});
    auto r = std::make_unique<cappa_reducer>();
    r->find_unused = o->find_unused != 0;
    r->p = std::make_unique<c10d::Reducer>(
        list, assign(list, o->first_bucket_bytes, o->bucket_bytes), g->p,
        /*expect_sparse_gradients=*/std::vector<bool>(list.size()), o->bucket_bytes,
        r->find_unused, o->gradient_as_bucket_view != 0,
        /*param_names=*/std::unordered_map<size_t, std::string>{}, o->first_bucket_bytes,
        /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false,
        /*per_bucket_sizes=*/std::vector<int64_t>{});
    if (o->bf16_wire) r->p->register_comm_hook(std::make_unique<Bf16Hook>(g->p));
    *out = r.release();
  });
}

int cappa_reducer_prepare_forward(cappa_reducer* r) {
  return guard([&] {
    r->p->prepare_for_forward();
    r->p->rebuild_buckets();  // once, after the first step: in the order gradients really came
  });
}

int cappa_reducer_prepare_backward(cappa_reducer* r, void** outputs, int n) {
  return guard([&] {
    // Only the search for unused parameters walks the graph from the outputs.
    r->p->prepare_for_backward(r->find_unused ? tensors(outputs, n) : std::vector<at::Tensor>{});
    r->armed = true;
  });
}

int cappa_reducer_finish(cappa_reducer* r) {
  return guard([&] {
    if (std::exchange(r->armed, false)) r->p->check_finalized();
  });
}

void cappa_reducer_free(cappa_reducer* r) {
  guard([&] { delete r; });
}

}  // extern "C"
