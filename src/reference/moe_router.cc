// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <numeric>

#include "reference/moe_matrix.h"

namespace flexep::moe::reference {
namespace {

constexpr double kEpsilon = 1e-20;

bool is_softmax(const MoeConfig& config) {
  return config.moe_router_score_function == RouterScoreFunction::kSoftmax;
}

Row softmax(const Row& logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  Row probs;
  for (const double logit : logits) probs.push_back(std::exp(logit - largest));
  const double sum = std::accumulate(probs.begin(), probs.end(), 0.0);
  for (double& prob : probs) prob /= sum;
  return probs;
}

Row normalise(const Row& values) {
  const double sum = std::accumulate(values.begin(), values.end(), 0.0) + kEpsilon;
  Row shares;
  for (const double value : values) shares.push_back(value / sum);
  return shares;
}

Row scores_of(const MoeConfig& config, const Row& logits) {
  if (is_softmax(config)) return softmax(logits);
  Row scores;
  for (const double logit : logits) scores.push_back(1 / (1 + std::exp(-logit)));
  return scores;
}

std::vector<int> largest(const Row& values, int k) {
  std::vector<int> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  const auto at = [&](int i) { return values[static_cast<std::size_t>(i)]; };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return at(a) > at(b); });
  order.resize(static_cast<std::size_t>(k));
  return order;
}

Row take(const Row& row, const std::vector<int>& columns) {
  Row taken;
  for (const int column : columns) taken.push_back(row[static_cast<std::size_t>(column)]);
  return taken;
}

// The chosen experts' probabilities, before the scaling factor.
Row chosen_probs(const MoeConfig& config, const Row& logits, const std::vector<int>& chosen) {
  if (is_softmax(config) && !config.moe_router_pre_softmax) return softmax(take(logits, chosen));
  const Row scores = take(scores_of(config, logits), chosen);
  return is_softmax(config) || config.moe_router_topk == 1 ? scores : normalise(scores);
}

// For the loss, an expert's share of its token's score.
Row shares_of(const MoeConfig& config, const Row& scores) {
  return is_softmax(config) ? scores : normalise(scores);
}

// [E], the factor of each token's share of expert e in the auxiliary loss: coeff * E * f_e / T.
Row loss_factors(const MoeConfig& config, const std::vector<std::vector<int>>& chosen) {
  Row factors(static_cast<std::size_t>(config.num_moe_experts));
  const auto num_tokens = static_cast<double>(chosen.size());
  const double each =
      config.moe_aux_loss_coeff * config.num_moe_experts / (num_tokens * config.moe_router_topk) / num_tokens;
  for (const auto& experts : chosen)
    for (const int expert : experts) factors[static_cast<std::size_t>(expert)] += each;
  return factors;
}

// Backwards, each from the gradient of what the function returned to that of what it took.

Row softmax_backward(const Row& probs, const Row& grad) {
  Row grad_logits(probs.size());
  for (std::size_t j = 0; j < probs.size(); ++j)
    for (std::size_t i = 0; i < probs.size(); ++i)
      grad_logits[j] += grad[i] * probs[i] * ((i == j ? 1 : 0) - probs[j]);
  return grad_logits;
}

Row normalise_backward(const Row& values, const Row& grad) {
  const double sum = std::accumulate(values.begin(), values.end(), 0.0) + kEpsilon;
  Row grad_values(values.size());
  for (std::size_t j = 0; j < values.size(); ++j)
    for (std::size_t i = 0; i < values.size(); ++i)
      grad_values[j] += grad[i] * ((i == j ? 1 : 0) / sum - values[i] / (sum * sum));
  return grad_values;
}

Row scores_backward(const MoeConfig& config, const Row& scores, const Row& grad) {
  if (is_softmax(config)) return softmax_backward(scores, grad);
  Row grad_logits;
  for (std::size_t i = 0; i < scores.size(); ++i)
    grad_logits.push_back(grad[i] * scores[i] * (1 - scores[i]));
  return grad_logits;
}

Row spread(const Row& values, const std::vector<int>& columns, std::size_t num_columns) {
  Row row(num_columns);
  for (std::size_t k = 0; k < columns.size(); ++k) row[static_cast<std::size_t>(columns[k])] = values[k];
  return row;
}

// One token's logits' gradient through its probabilities.
Row probs_backward(const MoeConfig& config, const Row& logits, const std::vector<int>& chosen,
                   const Row& grad_probs) {
  Row grad = take(grad_probs, chosen);
  for (double& value : grad) value *= config.moe_router_topk_scaling_factor;
  if (is_softmax(config) && !config.moe_router_pre_softmax)
    return spread(softmax_backward(softmax(take(logits, chosen)), grad), chosen, logits.size());
  const Row scores = scores_of(config, logits);
  if (!is_softmax(config) && config.moe_router_topk > 1)
    grad = normalise_backward(take(scores, chosen), grad);
  return scores_backward(config, scores, spread(grad, chosen, logits.size()));
}

// One token's logits' gradient through the auxiliary loss.
Row loss_backward(const MoeConfig& config, const Row& scores, const Row& factors) {
  return scores_backward(config, scores, is_softmax(config) ? factors : normalise_backward(scores, factors));
}

}  // namespace

Routing route(const MoeConfig& config, const Matrix& hidden, const Matrix& router_weight) {
  Routing routing;
  for (const Row& token : hidden) {
    const Row logits = times(router_weight, token), scores = scores_of(config, logits);
    const auto chosen = largest(logits, config.moe_router_topk);
    Row probs = chosen_probs(config, logits, chosen);
    for (double& prob : probs) prob *= config.moe_router_topk_scaling_factor;
    routing.scores.push_back(scores);
    routing.chosen.push_back(chosen);
    routing.probs.push_back(spread(probs, chosen, logits.size()));
  }
  const Row factors = loss_factors(config, routing.chosen);
  for (const Row& scores : routing.scores) routing.aux_loss += dot(factors, shares_of(config, scores));
  return routing;
}

RoutingGradients route_backward(const MoeConfig& config, const Matrix& hidden, const Matrix& router_weight,
                                const Matrix& grad_probs, double grad_aux_loss) {
  const Routing routing = route(config, hidden, router_weight);
  const Row factors = loss_factors(config, routing.chosen);
  RoutingGradients grads{.hidden = zeros(hidden.size(), router_weight.front().size()),
                         .router_weight = zeros(router_weight.size(), router_weight.front().size())};
  for (std::size_t t = 0; t < hidden.size(); ++t) {
    const Row logits = times(router_weight, hidden[t]);
    Row grad_logits = probs_backward(config, logits, routing.chosen[t], grad_probs[t]);
    add_scaled(grad_logits, grad_aux_loss, loss_backward(config, routing.scores[t], factors));
    times_backward(router_weight, hidden[t], grad_logits, grads.router_weight, grads.hidden[t]);
  }
  return grads;
}

}  // namespace flexep::moe::reference
