// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "plan/load.h"
#include "plan/rank_memory.h"
#include "plan/simulation.h"

namespace flexep::tool {

/// What one variant does at one number of ranks.
struct SimulatedVariant {
  Variant variant;
  Load load;
  SimulatedOperation time;
};

struct GrowthStep {
  PlanInputs inputs;
  int num_sampled_tokens = 0;  ///< of each rank
  std::vector<SimulatedVariant> variants;
  RankMemory memory;
};

/// The same with more domains: 1, 2, 4 ... of them, up to `max_ranks` ranks, each with the same number of
/// tokens. Experts that the ranks do not divide become as many more as it takes.
std::vector<PlanInputs> growing(const PlanInputs& inputs, int max_ranks);

/// Simulates every variant. Cost: docs/plan.md.
GrowthStep simulate_all(const PlanInputs& inputs);

/// The next larger number of experts that `num_ranks` divides.
int experts_for(int num_ranks, int num_experts);

}  // namespace flexep::tool
