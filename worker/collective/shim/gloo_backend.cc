#include "gloo_backend.h"

#include <algorithm>
#include <thread>

#include "error.h"

namespace cappa {

using c10::intrusive_ptr;
using c10::ivalue::Future;
using std::chrono::milliseconds;

class Promise final : public c10d::Work {
 public:
  Promise(int rank, c10d::OpType type, const Future& gloo)
      : Work(rank, type), future_(c10::make_intrusive<Future>(gloo.elementType())) {}

  void settle(Future& gloo) {
    if (settled_.exchange(true)) return;
    if (gloo.hasError())
      future_->setError(std::make_exception_ptr(Lost(gloo.tryRetrieveErrorMessage())));
    else
      future_->markCompleted(gloo.value());
  }
  void abort() override {
    if (!settled_.exchange(true)) future_->setError(std::make_exception_ptr(Aborted()));
  }

  bool isCompleted() override { return future_->completed(); }
  bool isSuccess() const override { return future_->completed() && !future_->hasError(); }
  bool wait(milliseconds) override {  // Gloo itself keeps the time
    future_->waitAndThrow();
    return true;
  }
  intrusive_ptr<Future> getFuture() override { return future_; }

 private:
  std::atomic<bool> settled_{false};
  intrusive_ptr<Future> future_;
};

void Mesh::hang_up() {
  for (auto& context : contexts_) {
    for (int peer = 0; peer < getSize(); peer++) {
      if (peer == getRank()) continue;
      if (auto* pair = context->getPair(peer).get())
        static_cast<gloo::transport::tcp::Pair*>(pair)->signalExceptionExternal("the group was aborted");
    }
  }
}

AbortableGloo::AbortableGloo(intrusive_ptr<Mesh> mesh)
    : Backend(mesh->getRank(), mesh->getSize()), mesh_(std::move(mesh)) {}

// Joining Gloo's threads could sit out an operation's limit, so after an abort another thread does it.
AbortableGloo::~AbortableGloo() {
  if (aborted_) std::thread([mesh = std::move(mesh_)]() mutable { mesh.reset(); }).detach();
}

void AbortableGloo::abort() {
  std::vector<c10::weak_intrusive_ptr<Promise>> open;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (std::exchange(aborted_, true)) return;
    open.swap(open_);
  }
  for (auto& weak : open)
    if (auto promise = weak.lock()) promise->abort();
  mesh_->hang_up();
}

// Starts an operation of Gloo, one at a time in the whole process: c10d's flight recorder adds
// groups to a map of its own without a lock.
template <class F>
intrusive_ptr<c10::ivalue::Future> start_alone(F&& start) {
  static std::mutex recorder;
  std::lock_guard<std::mutex> lock(recorder);
  return start()->getFuture();
}

template <class F>
intrusive_ptr<c10d::Work> AbortableGloo::watch(c10d::OpType type, F&& start) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (aborted_) throw Aborted();
  auto gloo = start_alone(start);
  auto promise = c10::make_intrusive<Promise>(getRank(), type, *gloo);
  auto ended = [](const c10::weak_intrusive_ptr<Promise>& weak) {
    auto open = weak.lock();
    return !open || open->isCompleted();
  };
  open_.erase(std::remove_if(open_.begin(), open_.end(), ended), open_.end());
  open_.emplace_back(promise);
  gloo->addCallback([promise, failed = failed_](Future& done) {
    if (done.hasError()) *failed = true;
    promise->settle(done);
  });
  return promise;
}

intrusive_ptr<c10d::Work> AbortableGloo::allreduce(Tensors& t, const c10d::AllreduceOptions& options) {
  return watch(c10d::OpType::ALLREDUCE, [&] { return mesh_->allreduce(t, options); });
}
intrusive_ptr<c10d::Work> AbortableGloo::broadcast(Tensors& t, const c10d::BroadcastOptions& options) {
  return watch(c10d::OpType::BROADCAST, [&] { return mesh_->broadcast(t, options); });
}
intrusive_ptr<c10d::Work> AbortableGloo::allgather(std::vector<Tensors>& out, Tensors& in, const c10d::AllgatherOptions& options) {
  return watch(c10d::OpType::ALLGATHER, [&] { return mesh_->allgather(out, in, options); });
}
intrusive_ptr<c10d::Work> AbortableGloo::barrier(const c10d::BarrierOptions& options) {
  return watch(c10d::OpType::BARRIER, [&] { return mesh_->barrier(options); });
}

intrusive_ptr<AbortableGloo> form_gloo(
    const intrusive_ptr<c10d::Store>& store, int rank, int size, const char* host,
    milliseconds form, milliseconds operation) {
  auto options = c10d::ProcessGroupGloo::Options::create(form);
  // Without an address Gloo would resolve the machine's own name, which need not be reachable.
  options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(host));
  auto mesh = c10::make_intrusive<Mesh>(store, rank, size, options);
  mesh->setTimeout(operation);
  return c10::make_intrusive<AbortableGloo>(std::move(mesh));
}

}  // namespace cappa
