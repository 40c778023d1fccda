// SPDX-License-Identifier: Apache-2.0
#include "conformance/cuda_memory.h"
#include "flexep/error.h"

namespace flexep::conformance {

void require_cuda() {
  throw InvalidArgument("device", "this build has no CUDA backend");
}

Tensor put_on_cuda(const Tensor&, Device) {
  require_cuda();
  return {};
}
Tensor empty_on_cuda(const Shape&, DType, Device) {
  require_cuda();
  return {};
}
Pages pages_on_cuda(std::size_t, Device) {
  require_cuda();
  return {};
}
Tensor fetch_from_cuda(const Tensor&) {
  require_cuda();
  return {};
}
void synchronise_cuda() {
  require_cuda();
}
void fill_on_cuda(const Tensor&, int) {
  require_cuda();
}
void write_on_cuda(const Tensor&, const Tensor&) {
  require_cuda();
}
std::shared_ptr<std::byte> allocate_on_cuda(std::size_t, Device) {
  require_cuda();
  return {};
}

}  // namespace flexep::conformance
