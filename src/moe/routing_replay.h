// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/moe/moe_config.h"
#include "flexep/tensor.h"

namespace flexep::moe {

/// @param topk_idx  int64 [num_tokens, K] of experts, or no tensor.
/// @throws InvalidArgument that names `replay_topk_idx`.
void check_replay(const MoeConfig& config, std::int64_t num_tokens, const Tensor& topk_idx);

}  // namespace flexep::moe
