// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/moe/gradient.h"
#include "flexep/moe/moe_config.h"
#include "flexep/tensor.h"

namespace flexep::moe {

/// Every tensor rank of an expert's group holds a slice of it and needs the token, so each expert becomes one
/// virtual expert per tensor rank: expert ep * El + local on tensor rank tp_idx is number (ep * tp + tp_idx)
/// * El + local, owned by group member ep * tp + tp_idx.
/// @param columns  [T, E], contiguous: probabilities (fp32, fp64) or a routing map (int32).
/// @return [T, tp * E], virtual expert v has the column of its expert; `columns` itself when tp is 1.
Tensor to_virtual_experts(const MoeConfig& config, const Tensor& columns);

/// Each chosen expert's virtual experts, tensor rank ascending: int64 [T, K] to [T, K * tp]; -1 stays -1.
Tensor to_virtual_ids(const MoeConfig& config, const Tensor& topk_idx);

/// Sums each expert's gradient over its virtual experts, tensor rank ascending.
Gradient<Tensor> to_virtual_experts_backward(const MoeConfig& config, const Gradient<Tensor>& grad);

}  // namespace flexep::moe
