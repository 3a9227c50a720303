// Process groups: forming, the collectives on CPU and CUDA tensors, abort.
#include "group.h"

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/distributed/c10d/comm.hpp>

#include "error.h"
#include "store.h"

using c10::intrusive_ptr;
using cappa::guard;
using cappa::tensors;
using std::chrono::milliseconds;

namespace {

enum Op { SUM = 0, AVG = 1, MIN = 2, MAX = 3 };

c10d::AllreduceOptions reduction(int op) {
  c10d::AllreduceOptions options;
  switch (op) {
    case SUM: options.reduceOp = c10d::ReduceOp::SUM; break;
    case AVG: options.reduceOp = c10d::ReduceOp::AVG; break;
    case MIN: options.reduceOp = c10d::ReduceOp::MIN; break;
    case MAX: options.reduceOp = c10d::ReduceOp::MAX; break;
    default: TORCH_CHECK(false, "unknown reduction ", op);
  }
  return options;
}

// Runs a collective behind autograd's back; an aborted group takes none.
template <class F>
int collective(cappa_group* g, F&& f) noexcept {
  return guard([&] {
    if (g->aborted) throw cappa::Aborted();
    at::NoGradGuard no_grad;
    f();
  });
}

// The tensor's elements as bytes, so that tensors of all types can share a bucket; shares its memory.
at::Tensor bytes(const at::Tensor& contiguous) {
  return contiguous.detach().view({-1}).view(at::kByte);
}

}  // namespace

extern "C" {

int cappa_group_gloo(const cappa_store* store, int rank, int size, const char* host, int64_t form_ms, int64_t operation_ms, cappa_group** out) {
  return guard([&] {
    // A connection of the group's own: a client of the store serves one request at a time, and a
    // forming that waits for a lost peer must not hold up the next generation's.
    auto own = store->view->clone();
    own->setTimeout(milliseconds(form_ms));
    auto g = std::make_unique<cappa_group>();
    try {
      g->gloo = cappa::form_gloo(own, rank, size, host, milliseconds(form_ms), milliseconds(operation_ms));
    } catch (const c10::DistError&) {
      throw;
    } catch (const c10::Error& e) {
      throw cappa::Lost(e.what_without_backtrace());
    } catch (const std::exception& e) {
      throw cappa::Lost(e.what());  // Gloo's own exceptions: a peer hung up or did not come
    }
    g->p = c10::make_intrusive<c10d::ProcessGroup>(own, rank, size);
    g->p->setBackend(c10::kCPU, c10d::ProcessGroup::BackendType::GLOO, g->gloo);
    g->p->setDefaultBackend(c10d::ProcessGroup::BackendType::GLOO);
    *out = g.release();
  });
}

// The c10d::Store* that the group was formed through, borrowed.
void* cappa_group_store(cappa_group* g) { return g->p->getStore().get(); }

// Takes an owned c10d::Backend* of the CUDA plug-in: CUDA tensors go through it from now on.
int cappa_group_add_cuda(cappa_group* g, void* backend) {
  return guard([&] {
    g->cuda = intrusive_ptr<c10d::Backend>::reclaim(static_cast<c10d::Backend*>(backend));
    g->p->setBackend(c10::kCUDA, c10d::ProcessGroup::BackendType::NCCL, g->cuda);
  });
}

int cappa_group_all_reduce(cappa_group* g, void* tensor, int op) {
  return collective(g, [&] {
    auto t = tensors(&tensor, 1);
    bool divide = op == AVG && t[0].is_cpu();  // Gloo knows no average
    g->p->allreduce(t, reduction(divide ? SUM : op))->wait();
    if (divide) t[0].div_(g->p->getSize());
  });
}

int cappa_group_broadcast(cappa_group* g, void* tensor, int root) {
  return collective(g, [&] {
    auto t = tensors(&tensor, 1);
    c10d::BroadcastOptions options;
    options.rootRank = root;
    g->p->broadcast(t, options)->wait();
  });
}

int cappa_group_broadcast_all(cappa_group* g, void** list, int n, size_t bucket_bytes, int root) {
  return collective(g, [&] {
    auto ts = tensors(list, n);
    std::vector<at::Tensor> views, copies(ts.size());
    for (size_t i = 0; i < ts.size(); i++) {
      if (ts[i].numel() == 0) continue;
      if (!ts[i].is_contiguous()) copies[i] = ts[i].detach().contiguous();
      views.push_back(bytes(copies[i].defined() ? copies[i] : ts[i]));
    }
    if (!views.empty()) c10d::broadcast_coalesced(g->p, views, bucket_bytes, root);
    for (size_t i = 0; i < ts.size(); i++)
      if (copies[i].defined()) ts[i].copy_(copies[i]);
  });
}

int cappa_group_all_gather(cappa_group* g, void* tensor, void** outs, int n) {
  return collective(g, [&] {
    std::vector<std::vector<at::Tensor>> gathered{tensors(outs, n)};
    auto own = tensors(&tensor, 1);
    g->p->allgather(gathered, own)->wait();
  });
}

// Not through ProcessGroup::barrier, which assigns to a static tensor without a lock.
int cappa_group_barrier(cappa_group* g) {
  return collective(g, [&] { g->gloo->barrier({})->wait(); });
}

int cappa_group_abort(cappa_group* g) {
  return guard([&] {
    if (g->aborted.exchange(true)) return;
    g->p->abort();
  });
}

// Waits for the device's current stream; CUDA collectives are merely queued when their call returns.
int cappa_group_synchronize(cappa_group* g, int index) {
  return guard([&] {
    c10::impl::VirtualGuardImpl impl(c10::kCUDA);
    impl.getStream(c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index))).synchronize();
    if (g->aborted) throw cappa::Aborted();
    if (g->cuda && g->cuda->getError() != c10d::ErrorType::SUCCESS)
      throw cappa::Lost("NCCL reports an error of a peer or of the network");
  });
}

// Whether an operation of the group failed (1) or the group was aborted (2).
int cappa_group_state(const cappa_group* g) {
  if (g->aborted) return 2;
  return g->gloo->failed() ? 1 : 0;
}

// Aborts a group with a failed operation first, since Gloo's threads may still be stuck in it.
void cappa_group_free(cappa_group* g) {
  if (g->gloo->failed()) cappa_group_abort(g);
  guard([&] { delete g; });
}

}  // extern "C"
