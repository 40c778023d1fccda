// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "flexep/moe/gradient.h"
#include "flexep/tensor.h"

namespace flexep::moe {

/// Token rows and the router probabilities that travel with them: what every differentiable step of a MoE
/// layer takes and returns. One template for values and gradients, so that a new differentiable member cannot
/// be left out of the backward.
template <typename T>
struct RoutedTokens {
  T hidden;  ///< [rows, H], bf16, fp16, fp32 or fp64
  T probs;   ///< fp32 or fp64; [rows, experts] before, [rows, columns] during, and [rows] after a dispatch
};

using Tokens = RoutedTokens<Tensor>;
using TokenGradients = RoutedTokens<Gradient<Tensor>>;

/// Rows grouped by expert, as experts want them: expert i's rows follow those of expert i - 1 with no gap.
struct GroupedTokens {
  Tokens tokens;                                ///< hidden [rows, H], probs [rows]
  std::vector<std::int32_t> tokens_per_expert;  ///< [experts], sums to rows
};

}  // namespace flexep::moe
