// SPDX-License-Identifier: Apache-2.0
#include "core/staged_inputs.h"

#include "flexep/error.h"

namespace flexep {

StagedInputs::~StagedInputs() {
  if (copies_.empty()) return;
  try {
    if (!fetched_) fetched();
    fetched_.wait();
  } catch (const Error&) {
    // The device has failed: nothing is on its way any more.
  }
}

Tensor StagedInputs::fetch(const Tensor& tensor) {
  return tensor ? fetch_rows(tensor, tensor.size(0)) : tensor;
}

Tensor StagedInputs::fetch_rows(const Tensor& tensor, std::int64_t num_rows) {
  if (!tensor) return tensor;
  const Tensor copy = host_.empty(tensor.shape(), tensor.dtype());
  copies_.push_back(copy);
  fetched_ = {};
  device_.fetch(tensor.rows(0, num_rows), static_cast<std::byte*>(copy.data()));
  return copy;
}

}  // namespace flexep
