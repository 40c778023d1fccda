// SPDX-License-Identifier: Apache-2.0
#include "conformance/cuda_memory.h"

#include <algorithm>
#include <array>

#include "flexep/cuda.h"
#include "flexep/error.h"

namespace flexep::conformance {
namespace {

void require(cudaError_t error) {
  if (error != cudaSuccess) throw CudaError(cudaGetErrorString(error));
}

}  // namespace

void use_cuda(Device device) {
  require(cudaSetDevice(device.index));
}

Tensor put_on_cuda(const Tensor& on_host, Device device) {
  std::int64_t num_elements = on_host.num_elements() > 0 ? 1 : 0;
  std::array<std::int64_t, Shape::kMaxDims> strides{};
  for (int dim = 0; dim < on_host.num_dims(); ++dim) {
    strides[static_cast<std::size_t>(dim)] = on_host.stride(dim);
    if (num_elements > 0) num_elements += (on_host.size(dim) - 1) * on_host.stride(dim);
  }
  // What spans the elements, holes included.
  const Tensor span = Tensor::from_memory(on_host.data(), {num_elements}, on_host.dtype());
  const Tensor copy = cuda::to_device(span, device);
  const Shape kept(
      std::span<const std::int64_t>(strides.data(), static_cast<std::size_t>(on_host.num_dims())));
  return Tensor::from_memory(copy.data(), on_host.shape(), kept, on_host.dtype(), copy.owner(), device);
}

Tensor empty_on_cuda(const Shape& shape, DType dtype, Device device) {
  return cuda::empty(shape, dtype, device);
}

Pages pages_on_cuda(std::size_t num_bytes, Device device) {
  constexpr std::size_t kPageBytes = std::size_t{2} << 20;
  const std::size_t size = std::max((num_bytes + kPageBytes - 1) / kPageBytes, std::size_t{1}) * kPageBytes;
  return {.memory = allocate_on_cuda(size, device), .num_bytes = size};
}

Tensor fetch_from_cuda(const Tensor& tensor) {
  return cuda::to_host(tensor);
}

void synchronise_cuda() {
  require(cudaStreamSynchronize(cuda::current_stream()));
}

void fill_on_cuda(const Tensor& tensor, int byte) {
  require(cudaMemsetAsync(tensor.data(), byte, tensor.num_bytes(), cuda::current_stream()));
}

void write_on_cuda(const Tensor& tensor, const Tensor& on_host) {
  require(cudaStreamSynchronize(cuda::current_stream()));  // not inside the copy: see to_device
  require(cudaMemcpyAsync(tensor.data(), on_host.data(), tensor.num_bytes(), cudaMemcpyDefault,
                          cuda::current_stream()));
  require(cudaStreamSynchronize(cuda::current_stream()));
}

std::shared_ptr<std::byte> allocate_on_cuda(std::size_t num_bytes, Device device) {
  require(cudaSetDevice(device.index));
  void* memory = nullptr;
  require(cudaMalloc(&memory, num_bytes));
  return {static_cast<std::byte*>(memory), [](std::byte* freed) { cudaFree(freed); }};
}

}  // namespace flexep::conformance
