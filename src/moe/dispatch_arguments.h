// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "common/check.h"
#include "flexep/moe/moe_config.h"
#include "flexep/tensor.h"

namespace flexep::moe {

/// What every dispatch_preprocess asks of its arguments, beside flatten_tokens. @throws InvalidArgument that
/// names `probs` or `routing_map`.
inline void check_routing(const MoeConfig& config, std::int64_t num_tokens, const Tensor& probs,
                          const Tensor& routing_map) {
  const Shape expected{num_tokens, config.num_moe_experts};
  require_argument(
      probs.shape() == expected && (probs.dtype() == DType::kFloat32 || probs.dtype() == DType::kFloat64),
      "probs", "probs must be fp32 or fp64 {}, not {} {}", expected, name_of(probs.dtype()), probs.shape());
  require_argument(routing_map.shape() == expected && routing_map.dtype() == DType::kInt32, "routing_map",
                   "routing_map must be int32 {}, not {} {}", expected, name_of(routing_map.dtype()),
                   routing_map.shape());
}

}  // namespace flexep::moe
