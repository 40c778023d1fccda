// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "backend/cuda/check_cuda.h"
#include "backend/cuda/device_arena.h"
#include "backend/cuda/stream_moment.h"
#include "common/check.h"
#include "flexep/cuda.h"

namespace flexep::cuda {
namespace {

thread_local cudaStream_t this_threads_stream = cudaStreamPerThread;

/// A pool of our own, which never makes a stream wait for another one: ranks that share it would wait for
/// each other.
cudaMemPool_t memory_pool(int device) {
  static std::mutex mutex;
  static std::map<int, cudaMemPool_t> pools;
  const std::lock_guard lock(mutex);
  if (const auto found = pools.find(device); found != pools.end()) return found->second;
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location = {.type = cudaMemLocationTypeDevice, .id = device};
  cudaMemPool_t pool = nullptr;
  check(cudaMemPoolCreate(&pool, &properties), "make a pool of memory");
  int no = 0;
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolReuseAllowInternalDependencies, &no),
        "set up a pool of memory");
  std::uint64_t everything = ~std::uint64_t{0};  // is kept for reuse
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &everything),
        "set up a pool of memory");
  return pools[device] = pool;
}

void synchronise(cudaStream_t stream) {
  check(cudaStreamSynchronize(stream), "finish what was started on a stream");
}

/// A copy from or to memory that is not pinned, when the stream has come to it: a copy that waits inside the
/// driver keeps other threads' copies from starting, and other threads are ranks for which this one's
/// operations wait.
void copy_pageable(void* to, const void* from, std::size_t num_bytes) {
  synchronise(current_stream());
  if (num_bytes == 0) return;
  check(cudaMemcpyAsync(to, from, num_bytes, cudaMemcpyDefault, current_stream()),
        "copy between host and device");
  synchronise(current_stream());
}

// No error is left behind: the next launch of this thread would take it for its own.
void free_on(cudaStream_t stream, void* memory) {
  if (cudaFreeAsync(memory, stream) != cudaSuccess) cudaGetLastError();
}

}  // namespace

cudaStream_t current_stream() {
  return this_threads_stream;
}

StreamGuard::StreamGuard(cudaStream_t stream) : previous_(std::exchange(this_threads_stream, stream)) {}
StreamGuard::~StreamGuard() {
  this_threads_stream = previous_;
}

Event capture() {
  return Event(std::make_shared<const StreamMoment>(current_stream()));
}

void wait(const Event& event, cudaStream_t stream) {
  if (const auto* moment = dynamic_cast<const StreamMoment*>(event.moment().get())) {
    moment->hold_back(stream);
  } else {
    event.wait();
  }
}

void wait(const Tensor& tensor, cudaStream_t stream) {
  DeviceArena::visit_arena_of(tensor.data(), [&](const DeviceArena& arena) {
    const DeviceGuard guard(tensor.device().index);
    StreamEvent(arena.stream()).hold_back(stream);
  });
}

void record_stream(const Tensor& tensor, cudaStream_t stream) {
  DeviceArena::visit_arena_of(tensor.data(),
                              [&](DeviceArena& arena) { arena.record_stream(tensor.data(), stream); });
}

cudaStream_t communication_stream(Device device) {
  const DeviceGuard guard(device.index);
  return living_communication_stream().get();
}

Tensor empty(const Shape& shape, DType dtype, Device device) {
  require_argument(device.type == Device::Type::kCuda, "device", "device is {}, but must be one of CUDA",
                   device.to_string());
  const DeviceGuard guard(device.index);
  const auto num_bytes = static_cast<std::size_t>(shape.num_elements()) * size_of(dtype);
  void* data = nullptr;
  const cudaStream_t stream = current_stream();
  check(
      cudaMallocFromPoolAsync(&data, std::max(num_bytes, std::size_t{1}), memory_pool(device.index), stream),
      "allocate memory");
  return Tensor::from_memory(data, shape, dtype, {data, [stream](void* memory) { free_on(stream, memory); }},
                             device);
}

Tensor to_device(const Tensor& tensor, Device device) {
  if (!tensor) return {};
  Tensor copy = empty(tensor.shape(), tensor.dtype(), device);
  copy_to_device(tensor, copy);
  return copy;
}

void copy_to_device(const Tensor& tensor, const Tensor& out) {
  require_argument(!out.device().is_host() && out.is_contiguous() && out.shape() == tensor.shape() &&
                       out.dtype() == tensor.dtype(),
                   "out", "out must be contiguous {} {} on a device", name_of(tensor.dtype()),
                   tensor.shape());
  const Tensor dense = tensor.contiguous();
  const DeviceGuard guard(out.device().index);
  copy_pageable(out.data(), dense.data(), dense.num_bytes());
}

Tensor to_host(const Tensor& tensor) {
  if (!tensor) return {};
  require_argument(!tensor.device().is_host(), "tensor", "to_host takes a tensor on a device");
  const DeviceGuard guard(tensor.device().index);
  // What spans the elements, with the strides kept.
  std::int64_t num_elements = tensor.num_elements() > 0 ? 1 : 0;
  std::array<std::int64_t, Shape::kMaxDims> strides{};
  for (int dim = 0; dim < tensor.num_dims(); ++dim) {
    strides[static_cast<std::size_t>(dim)] = tensor.stride(dim);
    if (num_elements > 0) num_elements += (tensor.size(dim) - 1) * tensor.stride(dim);
  }
  const Tensor span = Tensor::empty({num_elements}, tensor.dtype());
  copy_pageable(span.data(), tensor.data(), span.num_bytes());
  const Shape kept(
      std::span<const std::int64_t>(strides.data(), static_cast<std::size_t>(tensor.num_dims())));
  return Tensor::from_memory(span.data(), tensor.shape(), kept, tensor.dtype(), span.owner());
}

}  // namespace flexep::cuda
