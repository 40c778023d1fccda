// SPDX-License-Identifier: Apache-2.0
#include "moe/auxiliary_loss.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "moe/rows.h"
#include "moe/score_functions.h"

namespace flexep::moe {
namespace {

using Sums = std::vector<double>;

bool has_balancing_loss(const MoeConfig& config) {
  return config.moe_aux_loss_coeff != 0;  // validate() refuses a coefficient without such a loss
}

bool is_by_sequence(const MoeConfig& config) {
  return config.moe_router_load_balancing_type == RouterLoadBalancing::kSeqAuxLoss;
}

template <typename T>
std::vector<T> shares_of(const MoeConfig& config, std::span<const T> scores) {
  std::vector<T> shares(scores.begin(), scores.end());
  if (has_score_sum(score_rule(config))) normalise<T>(shares);
  return shares;
}

template <typename T>
double log_sum_exp(std::span<const T> logits) {
  const T largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const T logit : logits) sum += std::exp(static_cast<double>(logit - largest));
  return static_cast<double>(largest) + std::log(sum);
}

// Sums over this rank's tokens, one row [2E] for each sequence or for all: shares of score, then pairs.
template <typename T>
Tensor sum_by_sequence(const MoeConfig& config, const ChosenExperts& chosen, std::int64_t num_sequences) {
  const auto num_experts = static_cast<std::size_t>(config.num_moe_experts);
  Tensor sums = Tensor::zeros({num_sequences, 2 * config.num_moe_experts}, DType::kFloat64);
  for (std::int64_t t = 0; t < chosen.scores.size(0); ++t) {
    const auto row = row_of<double>(sums, t % num_sequences);
    const auto shares = shares_of<T>(config, row_of<T>(chosen.scores, t));
    for (std::size_t e = 0; e < num_experts; ++e) row[e] += static_cast<double>(shares[e]);
    for (const std::int64_t expert : row_of<std::int64_t>(chosen.topk_idx, t))
      row[num_experts + static_cast<std::size_t>(expert)] += 1;
  }
  return sums;
}

// coeff * E * sum_e f_e * P_e over one set of tokens; sets its slopes [E].
double balancing_loss(const MoeConfig& config, std::span<const double> share_sums,
                      std::span<const double> load, double num_tokens, std::span<double> slopes) {
  const double num_pairs = std::accumulate(load.begin(), load.end(), 0.0);
  if (num_tokens == 0 || num_pairs == 0) return 0;
  const double scale = config.moe_aux_loss_coeff * config.num_moe_experts / num_pairs / num_tokens;
  std::transform(load.begin(), load.end(), slopes.begin(), [scale](double pairs) { return scale * pairs; });
  return std::inner_product(slopes.begin(), slopes.end(), share_sums.begin(), 0.0);
}

// One loss over the tokens of all ranks, its load counted over earlier microbatches too when there are any.
void add_loss_of_all(const MoeConfig& config, const Sums& totals, double num_tokens,
                     std::span<const double> past_load, AuxiliaryLoss& result) {
  const auto num_experts = static_cast<std::size_t>(config.num_moe_experts);
  std::vector<double> load = result.global_tokens_per_expert;
  for (std::size_t e = 0; e < past_load.size(); ++e) load[e] += past_load[e];
  result.share_slopes = Tensor::zeros({1, config.num_moe_experts}, DType::kFloat64);
  result.load_balancing = balancing_loss(config, std::span(totals).first(num_experts), load, num_tokens,
                                         result.share_slopes.values<double>());
}

// The sum of this rank's sequences' losses, and their slopes, before they are divided by the number of all.
double sum_losses_of_sequences(const MoeConfig& config, const Tensor& sums, std::int64_t num_tokens,
                               const Tensor& slopes) {
  const auto num_experts = static_cast<std::size_t>(config.num_moe_experts);
  const auto tokens_each = static_cast<double>(num_tokens / std::max<std::int64_t>(1, sums.size(0)));
  double loss = 0;
  for (std::int64_t s = 0; s < sums.size(0); ++s) {
    const auto row = row_of<double>(sums, s);
    loss += balancing_loss(config, row.first(num_experts), row.last(num_experts), tokens_each,
                           row_of<double>(slopes, s));
  }
  return loss;
}

}  // namespace

template <typename T>
AuxiliaryLoss auxiliary_loss(const MoeConfig& config, Communicator& comm, const RoutedTokensOfRank& routed,
                             const RouterInput& input) {
  const double z_coeff = config.moe_z_loss_coeff.value_or(0);
  AuxiliaryLoss result;
  if (!has_balancing_loss(config) && z_coeff == 0) return result;

  const std::int64_t num_tokens = routed.logits.size(0);
  const std::int64_t num_sequences = is_by_sequence(config) ? input.num_sequences : 1;
  const Tensor sums = sum_by_sequence<T>(config, routed.chosen, num_sequences);
  const Tensor slopes = Tensor::zeros({num_sequences, config.num_moe_experts}, DType::kFloat64);
  double squares = 0;
  for (std::int64_t t = 0; t < num_tokens; ++t) {
    const double lse = log_sum_exp<T>(row_of<T>(routed.logits, t));
    squares += lse * lse;
  }
  // [E] shares, [E] pairs, then tokens, squares, sequences, losses of sequences.
  const auto num_experts = static_cast<std::size_t>(config.num_moe_experts);
  Sums totals(2 * num_experts);
  for (std::int64_t s = 0; s < num_sequences; ++s)
    for (std::size_t i = 0; i < totals.size(); ++i) totals[i] += row_of<double>(sums, s)[i];
  totals.insert(
      totals.end(),
      {static_cast<double>(num_tokens), squares, num_tokens == 0 ? 0.0 : static_cast<double>(num_sequences),
       is_by_sequence(config) ? sum_losses_of_sequences(config, sums, num_tokens, slopes) : 0.0});
  comm.all_reduce_sum(totals);
  const double* rest = totals.data() + 2 * num_experts;
  const double all_tokens = rest[0], all_squares = rest[1], all_sequences = rest[2], all_losses = rest[3];

  if (all_tokens > 0) result.z_slope = z_coeff / all_tokens;
  result.z = result.z_slope * all_squares;
  if (!has_balancing_loss(config)) return result;
  result.global_tokens_per_expert.assign(totals.begin() + config.num_moe_experts,
                                         totals.begin() + 2 * config.num_moe_experts);
  if (!is_by_sequence(config)) {
    const bool is_global = config.moe_router_load_balancing_type == RouterLoadBalancing::kGlobalAuxLoss;
    add_loss_of_all(
        config, totals, all_tokens,
        is_global ? std::span<const double>(input.past_tokens_per_expert) : std::span<const double>(),
        result);
  } else {
    const double count = std::max(1.0, all_sequences);
    for (double& slope : slopes.values<double>()) slope /= count;
    result.share_slopes = slopes;
    result.load_balancing = all_losses / count;
  }
  return result;
}

template <typename T>
Tensor load_balancing_backward(const MoeConfig& config, const RouterContext& context, double grad_loss) {
  Tensor grad = Tensor::zeros(context.scores.shape(), context.scores.dtype());
  if (!context.share_slopes) return grad;
  for (std::int64_t t = 0; t < grad.size(0); ++t) {
    const auto slopes = row_of<double>(context.share_slopes, t % context.share_slopes.size(0));
    std::vector<T> grad_shares(slopes.size());
    std::transform(slopes.begin(), slopes.end(), grad_shares.begin(),
                   [grad_loss](double slope) { return static_cast<T>(grad_loss * slope); });
    const auto row = row_of<T>(grad, t);
    if (has_score_sum(score_rule(config)))
      normalise_backward<T>(row_of<T>(context.scores, t), grad_shares, row);
    else
      std::copy(grad_shares.begin(), grad_shares.end(), row.begin());
  }
  return grad;
}

template <typename T>
void z_loss_backward(const RouterContext& context, double grad_loss, const Tensor& grad_logits) {
  if (!context.logits) return;
  for (std::int64_t t = 0; t < grad_logits.size(0); ++t) {
    const auto logits = row_of<T>(context.logits, t);
    const double lse = log_sum_exp<T>(logits);
    for (std::size_t e = 0; e < logits.size(); ++e)
      row_of<T>(grad_logits, t)[e] += static_cast<T>(grad_loss * context.z_slope * 2 * lse *
                                                     std::exp(static_cast<double>(logits[e]) - lse));
  }
}

template AuxiliaryLoss auxiliary_loss<float>(const MoeConfig&, Communicator&, const RoutedTokensOfRank&,
                                             const RouterInput&);
template AuxiliaryLoss auxiliary_loss<double>(const MoeConfig&, Communicator&, const RoutedTokensOfRank&,
                                              const RouterInput&);
template Tensor load_balancing_backward<float>(const MoeConfig&, const RouterContext&, double);
template Tensor load_balancing_backward<double>(const MoeConfig&, const RouterContext&, double);
template void z_loss_backward<float>(const RouterContext&, double, const Tensor&);
template void z_loss_backward<double>(const RouterContext&, double, const Tensor&);

}  // namespace flexep::moe
