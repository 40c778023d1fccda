// SPDX-License-Identifier: Apache-2.0
#include "moe/balancing_loss.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "moe/rows.h"
#include "moe/score_functions.h"

namespace flexep::moe {
namespace {

template <typename T>
std::vector<T> shares_of(const MoeConfig& config, std::span<const T> scores) {
  std::vector<T> shares(scores.begin(), scores.end());
  if (has_score_sum(score_rule(config))) normalise<T>(shares);
  return shares;
}

}  // namespace

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

double balancing_loss(const MoeConfig& config, std::span<const double> share_sums,
                      std::span<const double> load, double num_tokens, std::span<double> slopes) {
  const double num_pairs = std::accumulate(load.begin(), load.end(), 0.0);
  if (num_tokens == 0 || num_pairs == 0) return 0;
  const double scale = config.moe_aux_loss_coeff * config.num_moe_experts / num_pairs / num_tokens;
  std::transform(load.begin(), load.end(), slopes.begin(), [scale](double pairs) { return scale * pairs; });
  return std::inner_product(slopes.begin(), slopes.end(), share_sums.begin(), 0.0);
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

template Tensor sum_by_sequence<float>(const MoeConfig&, const ChosenExperts&, std::int64_t);
template Tensor sum_by_sequence<double>(const MoeConfig&, const ChosenExperts&, std::int64_t);
template Tensor load_balancing_backward<float>(const MoeConfig&, const RouterContext&, double);
template Tensor load_balancing_backward<double>(const MoeConfig&, const RouterContext&, double);

}  // namespace flexep::moe
