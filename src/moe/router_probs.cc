// SPDX-License-Identifier: Apache-2.0
#include "moe/router_probs.h"

#include "moe/floating.h"
#include "moe/rows.h"
#include "moe/score_functions.h"
#include "moe/topk.h"

namespace flexep::moe {
namespace {

// Softmax over the chosen logits: the scores then serve only to balance the load.
bool is_post_softmax(const MoeConfig& config) {
  return config.moe_router_score_function == RouterScoreFunction::kSoftmax && !config.moe_router_pre_softmax;
}

// The chosen scores are divided by their sum.
bool is_normalised(const MoeConfig& config) {
  return config.moe_router_score_function != RouterScoreFunction::kSoftmax && config.moe_router_topk > 1;
}

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
  if (!is_post_softmax(config) && !is_normalised(config)) return grad_topk_probs;
  const Tensor topk_scores = gather_columns(chosen.scores, chosen.topk_idx);
  Tensor grad = Tensor::zeros(grad_topk_probs.shape(), kDTypeOf<T>);
  for (std::int64_t t = 0; t < grad.size(0); ++t) {
    const auto grad_probs = row_of<T>(grad_topk_probs, t);
    if (is_post_softmax(config))
      softmax_backward<T>(row_of<T>(chosen.topk_probs, t), grad_probs, row_of<T>(grad, t));
    else
      normalise_backward<T>(row_of<T>(topk_scores, t), grad_probs, row_of<T>(grad, t));
  }
  return grad;
}

}  // namespace

template <typename T>
ChosenExperts choose_experts(const MoeConfig& config, const Tensor& logits) {
  Tensor scores = logits.clone();
  for (std::int64_t t = 0; t < scores.size(0); ++t)
    apply_score_function(config.moe_router_score_function, row_of<T>(scores, t));

  // Scores of distinct logits may round to one value, so it matters which of the two is ranked.
  const Tensor& ranked = is_post_softmax(config) ? logits : scores;
  Tensor topk_idx = topk(ranked, config.moe_router_topk);
  Tensor topk_probs = gather_columns(ranked, topk_idx);
  for (std::int64_t t = 0; t < topk_probs.size(0); ++t) {
    if (is_post_softmax(config)) softmax(row_of<T>(topk_probs, t));
    if (is_normalised(config)) normalise(row_of<T>(topk_probs, t));
  }
  return {.scores = scores, .topk_idx = topk_idx, .topk_probs = topk_probs};
}

template <typename T>
Tensor choose_experts_backward(const MoeConfig& config, const ChosenExperts& chosen,
                               const Tensor& grad_topk_probs, const Tensor& grad_scores) {
  const Tensor grad_chosen = scatter_columns(topk_probs_backward<T>(config, chosen, grad_topk_probs),
                                             chosen.topk_idx, config.num_moe_experts);
  const bool chose_logits = is_post_softmax(config);
  Tensor grad_logits = chose_logits ? grad_chosen : Tensor::zeros(grad_scores.shape(), kDTypeOf<T>);
  const Tensor all_grad_scores = chose_logits ? grad_scores : add(grad_scores, grad_chosen);
  for (std::int64_t t = 0; t < grad_logits.size(0); ++t)
    score_function_backward<T>(config.moe_router_score_function, row_of<T>(chosen.scores, t),
                               row_of<T>(all_grad_scores, t), row_of<T>(grad_logits, t));
  return grad_logits;
}

template ChosenExperts choose_experts<float>(const MoeConfig&, const Tensor&);
template ChosenExperts choose_experts<double>(const MoeConfig&, const Tensor&);
template Tensor choose_experts_backward<float>(const MoeConfig&, const ChosenExperts&, const Tensor&,
                                               const Tensor&);
template Tensor choose_experts_backward<double>(const MoeConfig&, const ChosenExperts&, const Tensor&,
                                                const Tensor&);

}  // namespace flexep::moe
