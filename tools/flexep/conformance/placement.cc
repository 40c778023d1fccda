// SPDX-License-Identifier: Apache-2.0
#include "conformance/placement.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "conformance/cuda_memory.h"

namespace flexep::conformance {

Placement::Placement(Device device) : device_(device) {
  if (!device_.is_host()) use_cuda(device_);
}

Tensor Placement::put(const Tensor& on_host) const {
  return device_.is_host() || !on_host ? on_host : put_on_cuda(on_host, device_);
}

Tensor Placement::fetch(const Tensor& tensor) const {
  return device_.is_host() || !tensor ? tensor : fetch_from_cuda(tensor);
}

Tensor Placement::empty(const Shape& shape, DType dtype) const {
  return device_.is_host() ? Tensor::empty(shape, dtype) : empty_on_cuda(shape, dtype, device_);
}

Pages Placement::pages(std::size_t num_bytes) const {
  if (!device_.is_host()) return pages_on_cuda(num_bytes, device_);
  constexpr std::size_t kPageBytes = 4096;
  const std::size_t size = std::max((num_bytes + kPageBytes - 1) / kPageBytes, std::size_t{1}) * kPageBytes;
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return {.memory = {static_cast<std::byte*>(memory), [size](std::byte* begin) { munmap(begin, size); }},
          .num_bytes = size};
}

void Placement::synchronise() const {
  if (!device_.is_host()) synchronise_cuda();
}

void Placement::fill(const Tensor& tensor, int byte) const {
  if (!tensor || tensor.num_bytes() == 0) return;
  if (device_.is_host()) {
    std::memset(tensor.data(), byte, tensor.num_bytes());
  } else {
    fill_on_cuda(tensor, byte);
  }
}

void Placement::write(const Tensor& tensor, const Tensor& on_host) const {
  if (tensor.num_bytes() == 0) return;
  if (device_.is_host()) {
    std::memcpy(tensor.data(), on_host.data(), tensor.num_bytes());
  } else {
    write_on_cuda(tensor, on_host);
  }
}

}  // namespace flexep::conformance
