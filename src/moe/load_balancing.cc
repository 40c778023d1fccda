// SPDX-License-Identifier: Apache-2.0
#include "moe/load_balancing.h"

#include <algorithm>

#include "moe/rows.h"
#include "moe/score_functions.h"

namespace flexep::moe {
namespace {

// [E], this rank's sum over tokens of each expert's score; sigmoid scores count as shares of their token's
// sum.
template <typename T>
std::vector<double> sum_scores(const MoeConfig& config, const Tensor& scores) {
  std::vector<double> sums(static_cast<std::size_t>(config.num_moe_experts));
  for (std::int64_t t = 0; t < scores.size(0); ++t) {
    const auto row = row_of<T>(scores, t);
    std::vector<T> shares(row.begin(), row.end());
    if (config.moe_router_score_function != RouterScoreFunction::kSoftmax) normalise<T>(shares);
    std::transform(sums.begin(), sums.end(), shares.begin(), sums.begin(), std::plus<>());
  }
  return sums;
}

}  // namespace

template <typename T>
LoadBalancing balance_load(const MoeConfig& config, Communicator& comm, const Tensor& scores,
                           std::span<const std::int64_t> tokens_per_expert) {
  const auto num_experts = static_cast<std::size_t>(config.num_moe_experts);
  std::vector<double> totals = sum_scores<T>(config, scores);
  totals.insert(totals.end(), tokens_per_expert.begin(), tokens_per_expert.end());
  totals.push_back(static_cast<double>(scores.size(0)));
  comm.all_reduce_sum(totals);

  LoadBalancing result{.load = std::vector<double>(num_experts), .num_global_tokens = totals.back()};
  if (result.num_global_tokens == 0) return result;
  for (std::size_t e = 0; e < num_experts; ++e) {
    const double mean_score = totals[e] / result.num_global_tokens;
    result.load[e] = totals[num_experts + e] / (result.num_global_tokens * config.moe_router_topk);
    result.loss += config.moe_aux_loss_coeff * config.num_moe_experts * result.load[e] * mean_score;
  }
  return result;
}

template <typename T>
Tensor balance_load_backward(const MoeConfig& config, const Tensor& scores, std::span<const double> load,
                             double num_global_tokens, double grad_loss) {
  std::vector<T> grad_shares(load.size());
  std::transform(load.begin(), load.end(), grad_shares.begin(), [&](double f) {
    return static_cast<T>(grad_loss * config.moe_aux_loss_coeff * config.num_moe_experts * f /
                          num_global_tokens);
  });
  Tensor grad = Tensor::zeros(scores.shape(), scores.dtype());
  for (std::int64_t t = 0; t < scores.size(0); ++t) {
    const auto row = row_of<T>(grad, t);
    switch (config.moe_router_score_function) {
      case RouterScoreFunction::kSoftmax:
        std::copy(grad_shares.begin(), grad_shares.end(), row.begin());
        break;
      case RouterScoreFunction::kSigmoid:
      case RouterScoreFunction::kSqrtSoftplus:
        normalise_backward<T>(row_of<T>(scores, t), grad_shares, row);
        break;
    }
  }
  return grad;
}

template LoadBalancing balance_load<float>(const MoeConfig&, Communicator&, const Tensor&,
                                           std::span<const std::int64_t>);
template LoadBalancing balance_load<double>(const MoeConfig&, Communicator&, const Tensor&,
                                            std::span<const std::int64_t>);
template Tensor balance_load_backward<float>(const MoeConfig&, const Tensor&, std::span<const double>, double,
                                             double);
template Tensor balance_load_backward<double>(const MoeConfig&, const Tensor&, std::span<const double>,
                                              double, double);

}  // namespace flexep::moe
