// SPDX-License-Identifier: Apache-2.0
#include "conformance/placement.h"

#include <cstring>

#include "conformance/cuda_memory.h"

namespace flexep::conformance {

Placement::Placement(Device device) : device_(device) {
  if (!device_.is_host()) require_cuda();
}

Tensor Placement::put(const Tensor& on_host) const {
  return device_.is_host() || !on_host ? on_host : put_on_cuda(on_host, device_);
}

Tensor Placement::fetch(const Tensor& tensor) const {
  return device_.is_host() || !tensor ? tensor : fetch_from_cuda(tensor);
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
