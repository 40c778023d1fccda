// SPDX-License-Identifier: Apache-2.0
#include "moe/layer_arguments.h"

#include "common/check.h"
#include "moe/expert_permutation.h"
#include "moe/flatten.h"
#include "moe/routing_replay.h"

namespace flexep::moe {
namespace {

void check_dtype(const MoeConfig& config, DType dtype) {
  const bool is_double = config.params_dtype == DType::kFloat64;
  require_argument(is_summable(dtype) && (dtype == DType::kFloat64) == is_double, "hidden",
                   "with params_dtype {} hidden must be {}, not {}", name_of(config.params_dtype),
                   is_double ? "fp64" : "bf16, fp16 or fp32", name_of(dtype));
}

// The layer's own memory; on a GPU, where nothing here makes them so, dense rows, too.
void check_memory(const char* name, Device device, const Tensor& tensor) {
  require_argument(tensor.device() == device, name, "{} must be in the memory of {}, the layer's, not of {}",
                   name, device.to_string(), tensor.device().to_string());
  require_argument(device.is_host() || tensor.is_contiguous(), name, "{} on a GPU must be contiguous", name);
}

}  // namespace

void check_forward_arguments(const MoeConfig& config, Device device, const Tensor& hidden,
                             const MoeForwardOptions& options) {
  check_memory("hidden", device, hidden);
  const Tensor flat = flatten_tokens(hidden, config.hidden_size);
  check_dtype(config, hidden.dtype());
  check_expert_permutation(options.expert_permutation, config.num_moe_experts);
  check_replay(config, flat.size(0), options.replay_topk_idx);
}

void check_backward_arguments(Device device, const Shape& hidden_shape, DType hidden_dtype,
                              const Tensor& grad_output) {
  check_memory("output", device, grad_output);
  require_argument(grad_output.shape() == hidden_shape && grad_output.dtype() == hidden_dtype, "output",
                   "the gradient of a MoE layer's output must be {} {}, not {} {}", name_of(hidden_dtype),
                   hidden_shape, name_of(grad_output.dtype()), grad_output.shape());
}

}  // namespace flexep::moe
