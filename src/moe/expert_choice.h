// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/moe/moe_config.h"
#include "flexep/tensor.h"

namespace flexep::moe {

/// Sets what lies outside the moe_router_group_topk best groups of each row to -infinity, in place. A group
/// is as good as the sum of its best K / group_topk values; of equal groups the lower wins. Without groups
/// nothing happens.
/// @param values  [T, E] of T = float or double.
template <typename T>
void keep_best_groups(const MoeConfig& config, const Tensor& values);

/// exp(logits), scaled by row and by column until every row and every column has about the same sum: its top
/// k give every expert about as many tokens. fp64 [T, E]. Source: Sinkhorn and Knopp; Megatron stops at the
/// same tolerance.
/// @param logits  [T, E] of T = float or double.
template <typename T>
Tensor sinkhorn(const Tensor& logits);

}  // namespace flexep::moe
