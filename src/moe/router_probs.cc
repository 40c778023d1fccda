// SPDX-License-Identifier: Apache-2.0
#include "moe/router_probs.h"

#include "moe/expert_choice.h"
#include "moe/floating.h"
#include "moe/rows.h"
#include "moe/score_functions.h"
#include "moe/topk.h"

namespace flexep::moe {
namespace {

template <typename T>
void apply_score_function(RouterScoreFunction function, std::span<T> row) {
  switch (function) {
    case RouterScoreFunction::kSoftmax:
      return softmax(row);
    case RouterScoreFunction::kSigmoid:
      return sigmoid(row);
    case RouterScoreFunction::kSqrtSoftplus:
      return sqrtsoftplus(row);
  }
}

template <typename T>
void score_function_backward(RouterScoreFunction function, std::span<const T> scores,
                             std::span<const T> grad_scores, std::span<T> grad_logits) {
  switch (function) {
    case RouterScoreFunction::kSoftmax:
      return softmax_backward(scores, grad_scores, grad_logits);
    case RouterScoreFunction::kSigmoid:
      return sigmoid_backward(scores, grad_scores, grad_logits);
    case RouterScoreFunction::kSqrtSoftplus:
      return sqrtsoftplus_backward(scores, grad_scores, grad_logits);
  }
}

// [T, K], the gradient of what was chosen: of logits with post-softmax, else of scores.
template <typename T>
Tensor topk_probs_backward(const MoeConfig& config, const ChosenExperts& chosen,
                           const Tensor& grad_topk_probs) {
  const ScoreRule rule = score_rule(config);
  if (!rule.is_post_softmax && !rule.is_normalised) return grad_topk_probs;
  const Tensor topk_scores = gather_columns(chosen.scores, chosen.topk_idx);
  Tensor grad = Tensor::zeros(grad_topk_probs.shape(), kDTypeOf<T>);
  for (std::int64_t t = 0; t < grad.size(0); ++t) {
    const auto grad_probs = row_of<T>(grad_topk_probs, t);
    if (rule.is_post_softmax)
      softmax_backward<T>(row_of<T>(chosen.topk_probs, t), grad_probs, row_of<T>(grad, t));
    else
      normalise_backward<T>(row_of<T>(topk_scores, t), grad_probs, row_of<T>(grad, t));
  }
  return grad;
}

// [T, E], what the top k is taken of.
template <typename T>
Tensor choosing_values(const MoeConfig& config, const Tensor& logits, const Tensor& scores,
                       std::span<const double> expert_bias) {
  if (config.moe_router_load_balancing_type == RouterLoadBalancing::kSinkhorn) return sinkhorn<T>(logits);
  // Scores of distinct logits may round to one value, so it matters which of the two is ranked.
  const Tensor& ranked = score_rule(config).is_post_softmax ? logits : scores;
  if (expert_bias.empty() && !config.moe_router_num_groups) return ranked;
  const Tensor values = ranked.clone();
  for (std::int64_t t = 0; t < values.size(0); ++t)
    for (std::size_t e = 0; e < expert_bias.size(); ++e)
      row_of<T>(values, t)[e] += static_cast<T>(expert_bias[e]);
  keep_best_groups<T>(config, values);
  return values;
}

}  // namespace

ScoreRule score_rule(const MoeConfig& config) {
  const bool is_top1 = config.moe_router_topk == 1;
  if (config.moe_router_load_balancing_type == RouterLoadBalancing::kSinkhorn)
    return {.function = is_top1 ? RouterScoreFunction::kSigmoid : RouterScoreFunction::kSoftmax,
            .is_post_softmax = false,
            .is_normalised = false};
  const bool is_softmax = config.moe_router_score_function == RouterScoreFunction::kSoftmax;
  return {.function = config.moe_router_score_function,
          .is_post_softmax = is_softmax && !config.moe_router_pre_softmax,
          .is_normalised = !is_softmax && !is_top1};
}

template <typename T>
ChosenExperts choose_experts(const MoeConfig& config, const Tensor& logits, const ChoiceInput& input) {
  const ScoreRule rule = score_rule(config);
  Tensor scores = logits.clone();
  for (std::int64_t t = 0; t < scores.size(0); ++t) apply_score_function(rule.function, row_of<T>(scores, t));

  Tensor topk_idx =
      input.replay_topk_idx
          ? input.replay_topk_idx.clone()
          : topk(choosing_values<T>(config, logits, scores, input.expert_bias), config.moe_router_topk);
  Tensor topk_probs = gather_columns(rule.is_post_softmax ? logits : scores, topk_idx);
  for (std::int64_t t = 0; t < topk_probs.size(0); ++t) {
    if (rule.is_post_softmax) softmax(row_of<T>(topk_probs, t));
    if (rule.is_normalised) normalise(row_of<T>(topk_probs, t));
  }
  return {.scores = scores, .topk_idx = topk_idx, .topk_probs = topk_probs};
}

template <typename T>
Tensor choose_experts_backward(const MoeConfig& config, const ChosenExperts& chosen,
                               const Tensor& grad_topk_probs, const Tensor& grad_scores) {
  const Tensor grad_chosen = scatter_columns(topk_probs_backward<T>(config, chosen, grad_topk_probs),
                                             chosen.topk_idx, config.num_moe_experts);
  const ScoreRule rule = score_rule(config);
  const bool chose_logits = rule.is_post_softmax;
  Tensor grad_logits = chose_logits ? grad_chosen : Tensor::zeros(grad_scores.shape(), kDTypeOf<T>);
  const Tensor all_grad_scores = chose_logits ? grad_scores : add(grad_scores, grad_chosen);
  for (std::int64_t t = 0; t < grad_logits.size(0); ++t)
    score_function_backward<T>(rule.function, row_of<T>(chosen.scores, t), row_of<T>(all_grad_scores, t),
                               row_of<T>(grad_logits, t));
  return grad_logits;
}

template ChosenExperts choose_experts<float>(const MoeConfig&, const Tensor&, const ChoiceInput&);
template ChosenExperts choose_experts<double>(const MoeConfig&, const Tensor&, const ChoiceInput&);
template Tensor choose_experts_backward<float>(const MoeConfig&, const ChosenExperts&, const Tensor&,
                                               const Tensor&);
template Tensor choose_experts_backward<double>(const MoeConfig&, const ChosenExperts&, const Tensor&,
                                                const Tensor&);

}  // namespace flexep::moe
