// SPDX-License-Identifier: Apache-2.0
#include "routing/topk_model.h"

#include <algorithm>

#include "common/check.h"

namespace flexep {
namespace {

// The limits of the library.
constexpr std::int64_t kMaxRanks = 4096;
constexpr int kMaxExperts = 65536;

}  // namespace

double expected_groups(int num_groups, int num_experts, int num_topk) {
  // A group is missed with probability C(E - E/g, K) / C(E, K).
  const int num_elsewhere = num_experts - num_experts / num_groups;
  double missed = 1;
  for (int i = 0; i < num_topk; ++i)
    missed *= std::max(0.0, static_cast<double>(num_elsewhere - i)) / (num_experts - i);
  return num_groups * (1 - missed);
}

std::int64_t check_topology(int num_scaleout_ranks, int num_scaleup_ranks) {
  const std::int64_t num_ranks = std::int64_t{num_scaleout_ranks} * num_scaleup_ranks;
  require_argument(num_scaleout_ranks > 0 && num_scaleup_ranks > 0 && num_ranks <= kMaxRanks,
                   "num_scaleup_ranks", "a topology of {} x {} ranks is empty, or of more than {}",
                   num_scaleout_ranks, num_scaleup_ranks, kMaxRanks);
  return num_ranks;
}

void check_topk(std::int64_t num_ranks, int num_experts, int num_topk) {
  require_argument(num_experts > 0 && num_experts <= kMaxExperts && num_experts % num_ranks == 0,
                   "num_experts",
                   "num_experts is {}, but must be a positive multiple of the {} ranks, at most {}",
                   num_experts, num_ranks, kMaxExperts);
  require_argument(num_topk > 0 && num_topk <= num_experts, "num_topk", "num_topk is {}, outside [1, {}]",
                   num_topk, num_experts);
}

}  // namespace flexep
