// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/statistics.h"

#include <algorithm>
#include <array>
#include <numeric>

namespace moe_lm {

void ExpertLoad::add(const std::vector<std::vector<std::int64_t>>& tokens_per_expert) {
  num_pairs_.resize(tokens_per_expert.size());
  for (std::size_t block = 0; block < num_pairs_.size(); ++block) {
    num_pairs_[block].resize(tokens_per_expert[block].size());
    for (std::size_t e = 0; e < num_pairs_[block].size(); ++e) {
      num_pairs_[block][e] += static_cast<double>(tokens_per_expert[block][e]);
    }
  }
}

double ExpertLoad::take_max_over_mean(flexep::Communicator& comm) {
  double worst = 0;
  for (std::vector<double>& pairs : num_pairs_) {
    comm.all_reduce_sum(pairs);
    const double largest = *std::max_element(pairs.begin(), pairs.end());
    const double total = std::accumulate(pairs.begin(), pairs.end(), 0.0);
    worst = std::max(worst, largest * static_cast<double>(pairs.size()) / total);
  }
  num_pairs_.clear();
  return worst;
}

TimeSpent mean_over_ranks(flexep::Communicator& comm, const TimeSpent& mine) {
  std::array<double, 3> sums = {mine.training, mine.dispatch, mine.combine};
  comm.all_reduce_sum(std::span<double>(sums));
  for (double& sum : sums) sum /= comm.num_ranks();
  return {.training = sums[0], .dispatch = sums[1], .combine = sums[2]};
}

}  // namespace moe_lm
