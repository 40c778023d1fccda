// SPDX-License-Identifier: Apache-2.0
#include "conformance/cuda_memory.h"
#include "flexep/error.h"

namespace flexep::conformance {
namespace {

[[noreturn]] void refuse() {
  throw InvalidArgument("device", "this build has no CUDA backend");
}

}  // namespace

void use_cuda(Device) {
  refuse();
}

Tensor put_on_cuda(const Tensor&, Device) {
  refuse();
}
Tensor empty_on_cuda(const Shape&, DType, Device) {
  refuse();
}
Pages pages_on_cuda(std::size_t, Device) {
  refuse();
}
Tensor fetch_from_cuda(const Tensor&) {
  refuse();
}
void synchronise_cuda() {
  refuse();
}
void fill_on_cuda(const Tensor&, int) {
  refuse();
}
void write_on_cuda(const Tensor&, const Tensor&) {
  refuse();
}
std::shared_ptr<std::byte> allocate_on_cuda(std::size_t, Device) {
  refuse();
}

}  // namespace flexep::conformance
