// SPDX-License-Identifier: Apache-2.0
#include "plan/growth.h"

#include <algorithm>

namespace flexep::tool {
namespace {

// 512 tokens of each of 2048 ranks.
constexpr std::int64_t kMaxSampledTokens = 1 << 20;

}  // namespace

int experts_for(int num_ranks, int num_experts) {
  return (num_experts + num_ranks - 1) / num_ranks * num_ranks;
}

std::vector<PlanInputs> growing(const PlanInputs& inputs, int max_ranks) {
  std::vector<PlanInputs> steps;
  for (int num_domains = 1; num_domains * inputs.num_scaleup_ranks <= max_ranks; num_domains *= 2) {
    PlanInputs step = inputs;
    step.num_scaleout_ranks = num_domains;
    step.num_experts = experts_for(step.num_ranks(), inputs.num_experts);
    steps.push_back(step);
  }
  return steps;
}

GrowthStep simulate_all(const PlanInputs& inputs) {
  const SampledRouting routing = sample_routing(inputs, kMaxSampledTokens);
  GrowthStep step{.inputs = inputs,
                  .num_sampled_tokens = routing.num_sampled_tokens,
                  .variants = {},
                  .memory = rank_memory(inputs, routing)};
  for (const Variant& variant : all_variants(inputs.num_scaleout_ranks > 1)) {
    const Load load = sampled_load(inputs, routing, variant);
    step.variants.push_back({variant, load, simulate(inputs, routing, variant, load.busiest)});
  }
  return step;
}

}  // namespace flexep::tool
