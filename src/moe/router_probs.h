// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/moe/moe_config.h"
#include "flexep/tensor.h"

namespace flexep::moe {

/// The experts that each token chooses, in descending order of score, and their probabilities.
struct ChosenExperts {
  Tensor scores;      ///< [T, E], softmax over all experts, or sigmoid
  Tensor topk_idx;    ///< int64 [T, K]
  Tensor topk_probs;  ///< [T, K], before the scaling factor
};

/// @param logits  [T, E] of T = float or double, which is also the type of the results.
template <typename T>
ChosenExperts choose_experts(const MoeConfig& config, const Tensor& logits);

/// The gradient of the logits.
/// @param grad_topk_probs  [T, K].
/// @param grad_scores      [T, E], what else depends on the scores: the load-balancing loss.
template <typename T>
Tensor choose_experts_backward(const MoeConfig& config, const ChosenExperts& chosen,
                               const Tensor& grad_topk_probs, const Tensor& grad_scores);

}  // namespace flexep::moe
