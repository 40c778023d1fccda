// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <vector>

#include "flexep/memory_model.h"
#include "flexep/plan_model.h"
#include "plan/growth.h"
#include "plan/load.h"
#include "plan/prediction.h"

namespace flexep::tool {

struct PlannedVariant {
  Variant variant;
  Load load;
  Prediction time;
};

/// All that `flexep plan` says of one number of ranks.
struct Plan {
  PlanInputs inputs;
  /// Of each rank, where a skewed routing was drawn; 0 where the figures are expectations of a uniform one.
  int num_sampled_tokens = 0;
  double ranks_per_token = 0;
  double domains_per_token = 0;
  std::vector<PlannedVariant> variants;
  MemoryNeed compact_memory;  ///< of a uniform routing
  MemoryNeed expanded_memory;
  std::optional<RankMemory> busiest_memory;  ///< with the drawn routing
  NumSmsModel sms;
  int num_qps = 0;
};

/// @throws InvalidArgument for experts that the ranks do not divide, top-k outside [1, E] and sizes that are
/// not positive. Cost: nothing for a uniform routing, else as sample_routing.
Plan make_plan(const PlanInputs& inputs);

/// The same ranks and as many domains again; experts as `experts_for` says.
PlanInputs with_twice_the_ranks(PlanInputs inputs);

const PlannedVariant& find_variant(const Plan& plan, Operation operation, bool do_expand, bool is_hybrid);

}  // namespace flexep::tool
