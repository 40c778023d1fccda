// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
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

double logistic(double z) {
  return 1 / (1 + std::exp(-z));
}

double sqrtsoftplus(double z) {
  return std::sqrt(std::log(1 + std::exp(z)));
}

Row scores_of(const MoeConfig& config, const Row& logits) {
  Row scores;
  switch (config.moe_router_score_function) {
    case RouterScoreFunction::kSoftmax:
      return softmax(logits);
    case RouterScoreFunction::kSigmoid:
      for (const double logit : logits) scores.push_back(logistic(logit));
      break;
    case RouterScoreFunction::kSqrtSoftplus:
      for (const double logit : logits) scores.push_back(sqrtsoftplus(logit));
      break;
  }
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

// The experts of the best groups: a group is worth the sum of its best K / group_topk values.
std::vector<bool> allowed_experts(const MoeConfig& config, const Row& values) {
  if (!config.moe_router_num_groups) return std::vector<bool>(values.size(), true);
  const auto num_groups = static_cast<std::size_t>(*config.moe_router_num_groups);
  const std::size_t group_size = values.size() / num_groups;
  const int per_group =
      std::min(config.moe_router_topk / *config.moe_router_group_topk, static_cast<int>(group_size));
  Row worth(num_groups);
  for (std::size_t g = 0; g < num_groups; ++g) {
    const Row group(values.begin() + static_cast<std::ptrdiff_t>(g * group_size),
                    values.begin() + static_cast<std::ptrdiff_t>((g + 1) * group_size));
    for (const int best : largest(group, per_group)) worth[g] += group[static_cast<std::size_t>(best)];
  }
  std::vector<bool> allowed(values.size());
  for (const int group : largest(worth, *config.moe_router_group_topk))
    for (std::size_t i = 0; i < group_size; ++i)
      allowed[static_cast<std::size_t>(group) * group_size + i] = true;
  return allowed;
}

std::vector<int> choose(const MoeConfig& config, const Row& logits, const Row& expert_bias) {
  Row values = is_softmax(config) ? logits : scores_of(config, logits);
  for (std::size_t e = 0; e < expert_bias.size(); ++e) values[e] += expert_bias[e];
  const auto allowed = allowed_experts(config, values);
  for (std::size_t e = 0; e < values.size(); ++e)
    if (!allowed[e]) values[e] = -std::numeric_limits<double>::infinity();
  return largest(values, config.moe_router_topk);
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

// [T][E], the factors of each token's share of expert e in the load-balancing loss: coeff * E * f_e / T over
// the tokens of a set, which are all of them or, for seq_aux_loss, those of one sequence.
Matrix loss_factors(const MoeConfig& config, const std::vector<std::vector<int>>& chosen,
                    const RouteInput& input) {
  const auto num_experts = static_cast<std::size_t>(config.num_moe_experts);
  const bool by_sequence = config.moe_router_load_balancing_type == RouterLoadBalancing::kSeqAuxLoss;
  const bool is_global = config.moe_router_load_balancing_type == RouterLoadBalancing::kGlobalAuxLoss;
  const std::size_t num_sets = by_sequence ? input.num_sequences : 1;
  Matrix loads = zeros(num_sets, num_experts);
  if (is_global && !input.past_load.empty()) loads[0] = input.past_load;
  for (std::size_t t = 0; t < chosen.size(); ++t)
    for (const int expert : chosen[t]) loads[t % num_sets][static_cast<std::size_t>(expert)] += 1;
  Matrix factors;
  for (std::size_t t = 0; t < chosen.size(); ++t) {
    const Row& load = loads[t % num_sets];
    const double num_pairs = std::accumulate(load.begin(), load.end(), 0.0);
    // Each set's loss is a mean over its tokens; the whole is a mean over the sets: divided by all tokens.
    factors.emplace_back();
    for (const double pairs : load)
      factors.back().push_back(config.moe_aux_loss_coeff * config.num_moe_experts * pairs / num_pairs /
                               static_cast<double>(chosen.size()));
  }
  return factors;
}

double log_sum_exp(const Row& logits) {
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit);
  return std::log(sum);
}

// Leaves each expert its capacity of tokens: mask[t][e].
Matrix capacity_mask(const MoeConfig& config, const Matrix& probs,
                     const std::vector<std::vector<int>>& chosen) {
  const std::size_t num_tokens = probs.size();
  Matrix mask = zeros(num_tokens, static_cast<std::size_t>(config.num_moe_experts)), routed = mask;
  for (std::size_t t = 0; t < num_tokens; ++t)
    for (const int expert : chosen[t]) routed[t][static_cast<std::size_t>(expert)] = 1;
  if (!config.expert_capacity_factor()) return routed;
  const auto capacity =
      static_cast<int>(std::ceil(static_cast<double>(num_tokens) * config.moe_router_topk /
                                 config.num_moe_experts * *config.expert_capacity_factor()));
  if (capacity > static_cast<int>(num_tokens)) return routed;
  for (std::size_t e = 0; e < mask.front().size(); ++e) {
    Row values;
    for (std::size_t t = 0; t < num_tokens; ++t)
      values.push_back(config.moe_token_drop_policy == TokenDropPolicy::kProbs ? probs[t][e] : routed[t][e]);
    for (const int token : largest(values, capacity)) {
      const auto t = static_cast<std::size_t>(token);
      mask[t][e] = config.moe_pad_expert_input_to_capacity ? 1 : routed[t][e];
    }
  }
  return mask;
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

Row scores_backward(const MoeConfig& config, const Row& logits, const Row& grad) {
  if (is_softmax(config)) return softmax_backward(softmax(logits), grad);
  const bool is_sigmoid = config.moe_router_score_function == RouterScoreFunction::kSigmoid;
  Row grad_logits;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double s = logistic(logits[i]);
    grad_logits.push_back(grad[i] * (is_sigmoid ? s * (1 - s) : s / (2 * sqrtsoftplus(logits[i]))));
  }
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
  return scores_backward(config, logits, spread(grad, chosen, logits.size()));
}

// One token's logits' gradient through the load-balancing loss.
Row loss_backward(const MoeConfig& config, const Row& logits, const Row& factors) {
  const Row scores = scores_of(config, logits);
  return scores_backward(config, logits, is_softmax(config) ? factors : normalise_backward(scores, factors));
}

}  // namespace

Routing route(const MoeConfig& config, const Matrix& hidden, const Matrix& router_weight,
              const RouteInput& input) {
  Routing routing;
  double squares = 0;
  for (const Row& token : hidden) {
    const Row logits = times(router_weight, token);
    const auto chosen = choose(config, logits, input.expert_bias);
    Row probs = chosen_probs(config, logits, chosen);
    for (double& prob : probs) prob *= config.moe_router_topk_scaling_factor;
    routing.scores.push_back(scores_of(config, logits));
    routing.chosen.push_back(chosen);
    routing.probs.push_back(spread(probs, chosen, logits.size()));
    squares += log_sum_exp(logits) * log_sum_exp(logits);
  }
  const Matrix factors = loss_factors(config, routing.chosen, input);
  for (std::size_t t = 0; t < hidden.size(); ++t)
    routing.aux_loss += dot(factors[t], shares_of(config, routing.scores[t]));
  if (!hidden.empty())
    routing.aux_loss += config.moe_z_loss_coeff.value_or(0) * squares / static_cast<double>(hidden.size());
  routing.map = capacity_mask(config, routing.probs, routing.chosen);
  for (std::size_t t = 0; t < hidden.size(); ++t)
    for (std::size_t e = 0; e < routing.map[t].size(); ++e) routing.probs[t][e] *= routing.map[t][e];
  return routing;
}

RoutingGradients route_backward(const MoeConfig& config, const Matrix& hidden, const Matrix& router_weight,
                                const Matrix& grad_probs, double grad_aux_loss, const RouteInput& input) {
  const Routing routing = route(config, hidden, router_weight, input);
  const Matrix factors = loss_factors(config, routing.chosen, input);
  const double z_factor = config.moe_z_loss_coeff.value_or(0) / static_cast<double>(hidden.size());
  RoutingGradients grads{.hidden = zeros(hidden.size(), router_weight.front().size()),
                         .router_weight = zeros(router_weight.size(), router_weight.front().size())};
  for (std::size_t t = 0; t < hidden.size(); ++t) {
    const Row logits = times(router_weight, hidden[t]);
    Row kept_grads = grad_probs[t];
    for (std::size_t e = 0; e < kept_grads.size(); ++e) kept_grads[e] *= routing.map[t][e];
    Row grad_logits = probs_backward(config, logits, routing.chosen[t], kept_grads);
    add_scaled(grad_logits, grad_aux_loss, loss_backward(config, logits, factors[t]));
    add_scaled(grad_logits, grad_aux_loss * z_factor * 2 * log_sum_exp(logits), softmax(logits));
    times_backward(router_weight, hidden[t], grad_logits, grads.router_weight, grads.hidden[t]);
  }
  return grads;
}

}  // namespace flexep::moe::reference
