// SPDX-License-Identifier: Apache-2.0
#include "common/check.h"
#include "flexep/moe/router.h"

namespace flexep::moe {

std::vector<double> updated_expert_bias(const MoeConfig& config, Communicator& comm,
                                        const std::vector<double>& bias,
                                        const std::vector<std::int64_t>& tokens_per_expert) {
  std::vector<double> load(tokens_per_expert.begin(), tokens_per_expert.end());
  comm.all_reduce_sum(load);
  double mean = 0;
  for (const double tokens : load) mean += tokens / static_cast<double>(load.size());
  std::vector<double> updated = bias;
  for (std::size_t e = 0; e < updated.size(); ++e) {
    const int sign = (mean > load[e] ? 1 : 0) - (mean < load[e] ? 1 : 0);
    updated[e] += config.moe_router_bias_update_rate * sign;
  }
  return updated;
}

}  // namespace flexep::moe
