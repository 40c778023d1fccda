// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/tensor.h"

namespace flexep {

/// @param topk_weights  [T, K], fp32 or fp64.
/// @param ids           int64 [T, K], contiguous; the weights of unrouted pairs (-1) are not looked at.
/// @throws InvalidArgument that names rank, token, column and value of the first weight that is NaN or
/// infinite. Cost: one pass over the weights.
void require_finite_weights(const Tensor& topk_weights, const Tensor& ids, int rank);

}  // namespace flexep
