// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "plan/load.h"
#include "plan/sampled_routing.h"
#include "plan/variant.h"

namespace flexep::tool {

/// When a simulated operation ends, microseconds from its begin, and how long the busiest of each resource
/// works.
struct SimulatedOperation {
  double total_us = 0;  ///< of the last rank
  double mean_us = 0;   ///< over ranks: how far they are apart
  double link_us = 0;
  double net_us = 0;
  double memory_us = 0;
};

/// Runs one operation over all ranks: no clock and no thread, the same figures on every machine.
///
/// Each rank has a sender and a receiver on its scale-up link and on its network link. A sender works off its
/// rows destination by destination, the rank after its own first; a receiver takes what comes in the order of
/// these waves, one at a time at its link's rate, so that many senders to one rank queue there. In hybrid
/// mode rows cross to the forwarder in the destination's domain, which passes on a chunk while the next one
/// comes; a combine gathers a chunk while the one before it crosses. A rank is through when its links and its
/// memory are. Cost: O(R^2).
/// @param busiest  of sampled_load, for memory and planning.
SimulatedOperation simulate(const PlanInputs& inputs, const SampledRouting& routing, const Variant& variant,
                            const RankLoad& busiest);

}  // namespace flexep::tool
