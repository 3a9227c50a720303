// Gloo that can be aborted.
//
// ProcessGroupGloo::abort does nothing, and a failed pair forgets to wake whoever waits on a
// half-written send (gloo's Pair::signalException passes over unbound buffers in its send queue),
// so such a waiter sleeps out its whole time limit. Callers therefore wait on a promise of ours,
// and a stuck Gloo thread is left behind to end by itself.
#pragma once
#include <torch/csrc/distributed/c10d/Store.hpp>
#define USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <atomic>
#include <mutex>
#include <vector>

namespace cappa {

// What a caller waits on: settled when Gloo ends the operation or when the group is aborted,
// whichever comes first.
class Promise;

// Gloo's connections to all peers.
class Mesh final : public c10d::ProcessGroupGloo {
 public:
  using ProcessGroupGloo::ProcessGroupGloo;
  void hang_up();  // fails every pair: local waiters wake and the peers see the connection end
};

class AbortableGloo final : public c10d::Backend {
  using Tensors = std::vector<at::Tensor>;
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;

 public:
  explicit AbortableGloo(c10::intrusive_ptr<Mesh> mesh);
  ~AbortableGloo() override;

  const std::string getBackendName() const override { return c10d::GLOO_BACKEND_NAME; }
  void setTimeout(std::chrono::milliseconds limit) override { mesh_->setTimeout(limit); }
  void abort() override;

  WorkPtr allreduce(Tensors& t, const c10d::AllreduceOptions& options) override;
  WorkPtr broadcast(Tensors& t, const c10d::BroadcastOptions& options) override;
  WorkPtr allgather(std::vector<Tensors>& out, Tensors& in, const c10d::AllgatherOptions& options) override;
  WorkPtr barrier(const c10d::BarrierOptions& options) override;

  bool failed() const { return *failed_; }

 private:
  template <class F>
  WorkPtr watch(c10d::OpType type, F&& start);

  c10::intrusive_ptr<Mesh> mesh_;
  std::mutex mutex_;
  bool aborted_ = false;
  std::shared_ptr<std::atomic<bool>> failed_ = std::make_shared<std::atomic<bool>>(false);
  std::vector<c10::weak_intrusive_ptr<Promise>> open_;
};

// Blocks until all ranks are connected or `form` is over; operations are then bounded by `operation`.
c10::intrusive_ptr<AbortableGloo> form_gloo(
    const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, const char* host,
    std::chrono::milliseconds form, std::chrono::milliseconds operation);

}  // namespace cappa
