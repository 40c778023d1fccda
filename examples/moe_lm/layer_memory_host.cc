// SPDX-License-Identifier: Apache-2.0
//
// In a build of flexep without CUDA.
#include <stdexcept>

#include "moe_lm/layer_memory.h"

namespace moe_lm {

std::string why_no_gpu(bool) {
  return "this build has no CUDA backend";
}

flexep::Device use_gpu_of(int /*rank*/) {
  throw std::logic_error("a rank asked for a GPU after why_no_gpu() had said that there is none");
}

flexep::Tensor to_layer(const flexep::Tensor& tensor, flexep::Device /*device*/) {
  return tensor;
}

flexep::Tensor to_host(const flexep::Tensor& tensor) {
  return tensor;
}

void copy_to_layer(const flexep::Tensor& /*tensor*/, const flexep::Tensor& /*out*/) {}

}  // namespace moe_lm
