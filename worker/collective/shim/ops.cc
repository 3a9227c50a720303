// ATen calls that tch does not bind: list-wise (fused, foreach) operators, the autocast type, and
// device matters through c10's device-neutral interfaces, which need no CUDA headers.
#include "error.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/autocast_mode.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

using cappa::give;
using cappa::guard;
using cappa::tensors;

namespace {

// Lists are updated behind autograd's back, as optimizers do.
template <class F>
int update(F&& f) noexcept {
  return guard([&] {
    at::NoGradGuard no_grad;
    f();
  });
}

at::Tensor joint_norm(const std::vector<at::Tensor>& list) {
  return at::linalg_vector_norm(at::stack(at::_foreach_norm(list, 2, at::kFloat)));
}

}  // namespace

extern "C" {

// `steps` are float tensors, one a parameter, and count this step when it is done.
int cappa_adamw(void** params, void** grads, void** m, void** v, void** steps, int n, double lr, double beta1, double beta2, double weight_decay, double eps) {
  return update([&] {
    auto count = tensors(steps, n);
    at::_foreach_add_(count, 1);
    at::_fused_adamw_(tensors(params, n), tensors(grads, n), tensors(m, n), tensors(v, n), {}, count, lr, beta1, beta2, weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false);
  });
}

int cappa_joint_norm(void** list, int n, void** norm) {
  return update([&] { give({joint_norm(tensors(list, n))}, norm); });
}

// The scale stays on the device, so the host does not wait for the norm.
int cappa_clip_norm(void** list, int n, double max_norm, void** norm) {
  return update([&] {
    auto ts = tensors(list, n);
    auto total = joint_norm(ts);
    at::_foreach_mul_(ts, (max_norm / (total + 1e-6)).clamp_max(1.0));
    give({total}, norm);
  });
}

int cappa_zero(void** a, int n) {
  return update([&] { at::_foreach_zero_(tensors(a, n)); });
}
int cappa_drop_grads(void** a, int n) {
  return guard([&] {
    for (auto& t : tensors(a, n)) t.mutable_grad().reset();
  });
}
int cappa_add_scalar(void** a, int n, double b) {
  return update([&] { at::_foreach_add_(tensors(a, n), b); });
}
int cappa_mul_scalar(void** a, int n, double b) {
  return update([&] { at::_foreach_mul_(tensors(a, n), b); });
}
int cappa_mul_tensor(void** a, int n, void* b) {
  return update([&] { at::_foreach_mul_(tensors(a, n), *static_cast<at::Tensor*>(b)); });
}
int cappa_clamp_max_scalar(void** a, int n, double b) {
  return update([&] { at::_foreach_clamp_max_(tensors(a, n), b); });
}
int cappa_clamp_min_scalar(void** a, int n, double b) {
  return update([&] { at::_foreach_clamp_min_(tensors(a, n), b); });
}
int cappa_sqrt(void** a, int n) {
  return update([&] { at::_foreach_sqrt_(tensors(a, n)); });
}
int cappa_rsqrt(void** a, int n) {
  return update([&] { at::_foreach_rsqrt_(tensors(a, n)); });
}
int cappa_reciprocal(void** a, int n) {
  return update([&] { at::_foreach_reciprocal_(tensors(a, n)); });
}
int cappa_add(void** a, void** b, int n, double alpha) {
  return update([&] { at::_foreach_add_(tensors(a, n), tensors(b, n), alpha); });
}
int cappa_mul(void** a, void** b, int n) {
  return update([&] { at::_foreach_mul_(tensors(a, n), tensors(b, n)); });
}
int cappa_div(void** a, void** b, int n) {
  return update([&] { at::_foreach_div_(tensors(a, n), tensors(b, n)); });
}
int cappa_lerp(void** a, void** b, int n, double weight) {
  return update([&] { at::_foreach_lerp_(tensors(a, n), tensors(b, n), weight); });
}
int cappa_copy(void** a, void** b, int n) {
  return update([&] { at::_foreach_copy_(tensors(a, n), tensors(b, n)); });
}
int cappa_addcmul(void** a, void** b, void** c, int n, double value) {
  return update([&] { at::_foreach_addcmul_(tensors(a, n), tensors(b, n), tensors(c, n), value); });
}
int cappa_addcdiv(void** a, void** b, void** c, int n, double value) {
  return update([&] { at::_foreach_addcdiv_(tensors(a, n), tensors(b, n), tensors(c, n), value); });
}
int cappa_norms(void** a, int n, void** out) {
  return update([&] { give(at::_foreach_norm(tensors(a, n), 2, at::kFloat), out); });
}
int cappa_products(void** a, void** b, int n, void** out) {
  return update([&] { give(at::_foreach_mul(tensors(a, n), tensors(b, n)), out); });
}

// Autocast of the calling thread: `before` receives what was set, for cappa_autocast_leave.
int cappa_autocast_enter(int device_type, int dtype, int before[2]) {
  return guard([&] {
    auto device = static_cast<at::DeviceType>(device_type);
    before[0] = at::autocast::is_autocast_enabled(device);
    before[1] = static_cast<int>(at::autocast::get_autocast_dtype(device));
    at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(dtype));
    at::autocast::set_autocast_enabled(device, true);
    at::autocast::increment_nesting();
  });
}
int cappa_autocast_leave(int device_type, const int before[2]) {
  return guard([&] {
    auto device = static_cast<at::DeviceType>(device_type);
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(before[1]));
    at::autocast::set_autocast_enabled(device, before[0] != 0);
  });
}

int cappa_matmul_precision(const char* precision) {
  return guard([&] { at::globalContext().setFloat32MatmulPrecision(precision); });
}

// Bytes in use now, most in use since the last reset, and reserved from the device.
int cappa_device_memory(int device_type, int index, int reset_peak, int64_t out[3]) {
  return guard([&] {
    auto* allocator = at::getDeviceAllocator(static_cast<at::DeviceType>(device_type));
    auto device = static_cast<c10::DeviceIndex>(index);
    auto stats = allocator->getDeviceStats(device);
    out[0] = stats.allocated_bytes[0].current;
    out[1] = stats.allocated_bytes[0].peak;
    out[2] = stats.reserved_bytes[0].current;
    if (reset_peak) allocator->resetPeakStats(device);
  });
}

// The copy runs on a stream of the pool, after what the current stream has queued; what the
// current stream queues afterwards waits for the copy. Between host tensors it is a plain copy.
int cappa_copy_async(void* to, const void* from) {
  return update([&] {
    auto& dst = *static_cast<at::Tensor*>(to);
    auto& src = *static_cast<const at::Tensor*>(from);
    auto device = dst.is_cpu() ? src.device() : dst.device();
    if (device.is_cpu()) {
      dst.copy_(src);
      return;
    }
    c10::impl::VirtualGuardImpl impl(device.type());
    auto current = impl.getStream(device), side = impl.getStreamFromGlobalPool(device);
    c10::Event ready(device.type()), done(device.type());
    ready.record(current);
    ready.block(side);
    {
      c10::StreamGuard on(side);
      dst.copy_(src, /*non_blocking=*/true);
    }
    done.record(side);
    done.block(current);
  });
}

}  // extern "C"
