// SPDX-License-Identifier: Apache-2.0
#include "plan/plan.h"

#include <algorithm>

#include "plan/rank_memory.h"
#include "routing/topk_model.h"

namespace flexep::tool {
namespace {

// A skewed routing needs its busiest rank, not a distribution: fewer tokens than the simulator draws.
constexpr std::int64_t kMaxSampledTokens = 1 << 18;
// As DeepEP allocates them by default.
constexpr int kNumAllocatedQps = 129;

MemoryNeed memory_of(const PlanInputs& inputs, bool do_expand) {
  return plan_memory({.num_ranks = inputs.num_ranks(),
                      .num_tokens = inputs.num_tokens,
                      .hidden = inputs.hidden,
                      .num_topk = inputs.num_topk,
                      .num_experts = inputs.num_experts,
                      .expert_alignment = inputs.expert_alignment,
                      .do_expand = do_expand,
                      .dtype = inputs.dtype,
                      .num_domains = inputs.num_scaleout_ranks});
}

NumSmsModel sms_of(const PlanInputs& inputs) {
  return explain_num_sms({.num_scaleout_ranks = inputs.num_scaleout_ranks,
                          .num_scaleup_ranks = inputs.num_scaleup_ranks,
                          .num_experts = inputs.num_experts,
                          .num_topk = inputs.num_topk,
                          .nvlink_gbs = inputs.machine.link_gbs,
                          .rdma_gbs = inputs.machine.net_gbs});
}

double mean_groups(const PlanInputs& inputs, const CountTable& counts, int num_groups, int num_tokens) {
  double sum = 0;
  for (int rank = 0; rank < inputs.num_ranks(); ++rank)
    for (int group = 0; group < num_groups; ++group) sum += counts.at(rank, group);
  return sum / num_tokens / inputs.num_ranks();
}

void add_expected(Plan& plan) {
  const PlanInputs& inputs = plan.inputs;
  plan.ranks_per_token = expected_groups(inputs.num_ranks(), inputs.num_experts, inputs.num_topk);
  plan.domains_per_token = expected_groups(inputs.num_scaleout_ranks, inputs.num_experts, inputs.num_topk);
  for (PlannedVariant& planned : plan.variants) planned.load = uniform_load(inputs, planned.variant);
}

void add_sampled(Plan& plan) {
  const PlanInputs& inputs = plan.inputs;
  const SampledRouting routing = sample_routing(inputs, kMaxSampledTokens);
  plan.num_sampled_tokens = routing.num_sampled_tokens;
  plan.ranks_per_token = mean_groups(inputs, routing.tokens, inputs.num_ranks(), routing.num_sampled_tokens);
  plan.domains_per_token =
      mean_groups(inputs, routing.domains, inputs.num_scaleout_ranks, routing.num_sampled_tokens);
  for (PlannedVariant& planned : plan.variants) planned.load = sampled_load(inputs, routing, planned.variant);
  plan.busiest_memory = rank_memory(inputs, routing);
}

}  // namespace

Plan make_plan(const PlanInputs& inputs) {
  Plan plan{.inputs = inputs,
            .compact_memory = memory_of(inputs, false),
            .expanded_memory = memory_of(inputs, true),
            .busiest_memory = {},
            .sms = sms_of(inputs)};
  plan.num_qps = get_theoretical_num_qps(plan.sms.num_sms, /*allow_hybrid_mode=*/true, kNumAllocatedQps);
  for (const Variant& variant : all_variants(inputs.num_scaleout_ranks > 1))
    plan.variants.push_back({.variant = variant, .load = {}, .time = {}});
  if (inputs.zipf_exponent == 0) {
    add_expected(plan);
  } else {
    add_sampled(plan);
  }
  for (PlannedVariant& planned : plan.variants)
    planned.time = predict(inputs, planned.variant, planned.load.busiest);
  return plan;
}

PlanInputs with_twice_the_ranks(PlanInputs inputs) {
  inputs.num_scaleout_ranks *= 2;
  inputs.num_experts = experts_for(inputs.num_ranks(), inputs.num_experts);
  return inputs;
}

const PlannedVariant& find_variant(const Plan& plan, Operation operation, bool do_expand, bool is_hybrid) {
  return *std::ranges::find_if(plan.variants, [&](const PlannedVariant& planned) {
    const Variant& variant = planned.variant;
    return variant.operation == operation && variant.do_expand == do_expand &&
           variant.is_hybrid == is_hybrid && variant.allow_multiple_reduction;
  });
}

}  // namespace flexep::tool
