// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "flexep/moe/moe_config.h"
#include "flexep/tensor.h"

namespace flexep::moe {

/// The experts that each token chooses, in descending order of what chose, and their probabilities.
struct ChosenExperts {
  Tensor scores;      ///< [T, E], of all experts
  Tensor topk_idx;    ///< int64 [T, K]
  Tensor topk_probs;  ///< [T, K], before the scaling factor
};

/// What is made of logits: scores, and probabilities of those that are chosen.
struct ScoreRule {
  RouterScoreFunction function;
  bool is_post_softmax;  ///< probabilities are a softmax over the chosen logits: scores only balance the load
  bool is_normalised;    ///< probabilities are the chosen scores, divided by their sum
};
ScoreRule score_rule(const MoeConfig& config);

/// Whether an expert's share of a token for the load-balancing loss is its score over the token's sum; else
/// scores are shares.
constexpr bool has_score_sum(const ScoreRule& rule) {
  return rule.function != RouterScoreFunction::kSoftmax;
}

struct ChoiceInput {
  std::span<const double> expert_bias;  ///< [E] or empty
  Tensor replay_topk_idx;               ///< int64 [T, K], or no tensor
};

/// @param logits  [T, E] of T = float or double, which is also the type of the results.
template <typename T>
ChosenExperts choose_experts(const MoeConfig& config, const Tensor& logits, const ChoiceInput& input);

/// The gradient of the logits.
/// @param grad_topk_probs  [T, K].
/// @param grad_scores      [T, E], what else depends on the scores: the load-balancing loss.
template <typename T>
Tensor choose_experts_backward(const MoeConfig& config, const ChosenExperts& chosen,
                               const Tensor& grad_topk_probs, const Tensor& grad_scores);

}  // namespace flexep::moe
