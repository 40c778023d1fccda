// SPDX-License-Identifier: Apache-2.0
#include "moe/auxiliary_loss.h"

#include <algorithm>

#include "moe/balancing_loss.h"
#include "moe/rows.h"

namespace flexep::moe {
namespace {

using Sums = std::vector<double>;

bool has_balancing_loss(const MoeConfig& config) {
  return config.moe_aux_loss_coeff != 0;  // validate() refuses a coefficient without such a loss
}

bool is_by_sequence(const MoeConfig& config) {
  return config.moe_router_load_balancing_type == RouterLoadBalancing::kSeqAuxLoss;
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

bool has_loss(const MoeConfig& config) {
  return has_balancing_loss(config) || config.moe_z_loss_coeff.value_or(0) != 0;
}

std::int64_t num_loss_sequences(const MoeConfig& config, const RouterInput& input) {
  return is_by_sequence(config) ? input.num_sequences : 1;
}

AuxiliaryLoss auxiliary_loss(const MoeConfig& config, Communicator& comm, const LossSums& mine,
                             const RouterInput& input) {
  const double z_coeff = config.moe_z_loss_coeff.value_or(0);
  AuxiliaryLoss result;
  const std::int64_t num_tokens = mine.num_tokens, num_sequences = mine.by_sequence.size(0);
  const Tensor slopes = Tensor::zeros({num_sequences, config.num_moe_experts}, DType::kFloat64);
  // [E] shares, [E] pairs, then tokens, squares, sequences, losses of sequences.
  const auto num_experts = static_cast<std::size_t>(config.num_moe_experts);
  Sums totals(2 * num_experts);
  for (std::int64_t s = 0; s < num_sequences; ++s)
    for (std::size_t i = 0; i < totals.size(); ++i) totals[i] += row_of<double>(mine.by_sequence, s)[i];
  totals.insert(
      totals.end(),
      {static_cast<double>(num_tokens), mine.squared_log_sums,
       num_tokens == 0 ? 0.0 : static_cast<double>(num_sequences),
       is_by_sequence(config) ? sum_losses_of_sequences(config, mine.by_sequence, num_tokens, slopes) : 0.0});
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

}  // namespace flexep::moe
