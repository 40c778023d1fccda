// SPDX-License-Identifier: Apache-2.0
#include "core/staged_device.h"

#include <memory>

#include "backend/cuda/capture.h"
#include "backend/cuda/check_cuda.h"
#include "backend/cuda/device_arena.h"
#include "backend/cuda/stream_moment.h"
#include "common/check.h"
#include "core/buffer_engine.h"
#include "cuda_engine/dense_copy.h"
#include "cuda_engine/device_group.h"
#include "flexep/cuda.h"

namespace flexep {
namespace cuda {
namespace {

std::shared_ptr<CUstream_st> make_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "make a stream");
  return {stream, cudaStreamDestroy};
}

/// Addresses for all the memory that the device has.
std::size_t bytes_of_device(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "describe a device");
  return properties.totalGlobalMem;
}

std::size_t spanned_bytes(const Shape& shape, const Shape& strides, DType dtype) {
  if (shape.num_elements() == 0) return 0;
  std::int64_t num_elements = 1;
  for (int dim = 0; dim < shape.num_dims(); ++dim) num_elements += (shape[dim] - 1) * strides[dim];
  return static_cast<std::size_t>(num_elements) * size_of(dtype);
}

/// A GPU. Copies to the host and from there each have a stream, since a link carries both at a time.
class StagedGpu final : public StagedDevice {
 public:
  explicit StagedGpu(const ElasticBufferConfig& config)
      : device_(config.device.index), arena_memory_(config.arena_memory) {}

  void prepare() override {
    require_argument(
        arena_memory_ == ArenaMemory::kDevice, "arena_memory",
        "arena_memory is kPinnedHost, but a group of several domains receives rows in the host's "
        "memory in any case, and copies them to the GPU");
    require_device(device_);
    const DeviceGuard guard(device_);
    const RelaxedCapture relaxed;
    fetching_ = make_stream();
    storing_ = communication_stream();
    arena_ = std::make_shared<DeviceArena>(
        device_, storing_, std::make_shared<DeviceRange>(device_, bytes_of_device(device_)), 0, RangeNews{});
  }

  std::shared_ptr<void> pin(std::byte* memory, std::size_t num_bytes) override {
    const DeviceGuard guard(device_);
    const RelaxedCapture relaxed;
    check(cudaHostRegister(memory, num_bytes, cudaHostRegisterPortable), "pin host memory");
    return {memory, [](void* pinned) {
              // No error is left behind: the next call of this thread would take it for its own.
              if (cudaHostUnregister(pinned) != cudaSuccess) cudaGetLastError();
            }};
  }

  void follow(const Event& previous) override {
    const cudaStream_t current = current_stream();
    require_argument(current != storing_.get(), "current_stream",
                     "the current stream is this rank's communication stream, which cannot wait for itself");
    require_argument(!is_captured(current), "current_stream",
                     "the current stream is being captured into a graph, but rows that cross domains go by "
                     "way of the host, where no graph can move them");
    if (previous) return follow_also(previous);
    const DeviceGuard guard(device_);
    const RelaxedCapture relaxed;
    StreamEvent(current).hold_back(fetching_.get());
  }

  void follow_also(const Event& event) override {
    const DeviceGuard guard(device_);
    const RelaxedCapture relaxed;
    if (event) wait(event, fetching_.get());
  }

  void fetch(const Tensor& from, std::byte* to) override {
    const DeviceGuard guard(device_);
    const RelaxedCapture relaxed;
    if (!from.is_contiguous()) return copy_dense(from, to, fetching_.get());
    check(cudaMemcpyAsync(to, from.data(), from.num_bytes(), cudaMemcpyDeviceToHost, fetching_.get()),
          "copy to the host");
  }

  Event fetched() override {
    const DeviceGuard guard(device_);
    const RelaxedCapture relaxed;
    return Event(std::make_shared<const StreamMoment>(fetching_.get()));
  }

  Tensor make_result(const Shape& shape, const Shape& strides, DType dtype) override {
    const DeviceGuard guard(device_);
    const RelaxedCapture relaxed;
    auto block = arena_->reserve(spanned_bytes(shape, strides, dtype), storing_.get());
    block.add_user(current_stream());
    return arena_->make_tensor(std::move(block), shape, strides, dtype);
  }

  Tensor empty(const Shape& shape, DType dtype) override {
    const DeviceGuard guard(device_);
    const RelaxedCapture relaxed;
    const cudaStream_t current = current_stream();
    auto block = arena_->reserve(static_cast<std::size_t>(shape.num_elements()) * size_of(dtype), current);
    Tensor tensor = arena_->make_tensor(std::move(block), shape, dtype);
    if (is_captured(current)) keep_with_graph_of(current, tensor.owner());
    return tensor;
  }

  std::int64_t num_bytes() const override { return static_cast<std::int64_t>(arena_->num_bytes()); }

  void store(const std::byte* from, void* to, std::size_t num_bytes) override {
    if (num_bytes == 0) return;
    const DeviceGuard guard(device_);
    const RelaxedCapture relaxed;
    check(cudaMemcpyAsync(to, from, num_bytes, cudaMemcpyHostToDevice, storing_.get()), "copy to the device");
  }

  void finish_stores() override {
    const DeviceGuard guard(device_);
    const auto point = std::make_shared<const StreamEvent>(storing_.get());
    arena_->note_operation(point);
    point->wait();
  }

 private:
  const int device_;
  const ArenaMemory arena_memory_;
  std::shared_ptr<CUstream_st> fetching_;
  std::shared_ptr<CUstream_st> storing_;
  std::shared_ptr<DeviceArena> arena_;
};

}  // namespace
}  // namespace cuda

std::shared_ptr<StagedDevice> make_staged_device(const ElasticBufferConfig& config) {
  return std::make_shared<cuda::StagedGpu>(config);
}

}  // namespace flexep
