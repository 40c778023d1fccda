// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "plan/sampled_routing.h"

namespace flexep::tool {

/// Bytes of the busiest rank.
struct RankMemory {
  double compact_arena = 0;  ///< outputs of one dispatch, expert output and sums of one combine
  double expanded_arena = 0;
  double plan = 0;  ///< slots of its pairs, and its summary of everybody's counts
};

/// Of the rank that receives most.
RankMemory rank_memory(const PlanInputs& inputs, const SampledRouting& routing);

}  // namespace flexep::tool
