// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "plan/load.h"

namespace flexep::tool {

/// Microseconds that an operation takes, resource by resource; each formula is in docs/plan.md.
struct Prediction {
  double link_us = 0;  ///< of the busiest rank: bytes over the rate
  double net_us = 0;   ///< with what its messages take beside their bytes
  double memory_us = 0;
  double exchange_us = 0;  ///< the two exchanges between ranks: agree, complete
  double travel_us = 0;    ///< of the last row; in hybrid mode with a chunk that waits to be forwarded
  double host_us = 0;      ///< planning, and messages

  /// What the bytes need at least: the slowest resource.
  double floor_us() const;
  double total_us() const { return floor_us() + exchange_us + travel_us + host_us; }
  /// "scale-up link", "scale-out link", "memory", or "latency" where it is more than what the bytes need.
  std::string_view bottleneck() const;
};

Prediction predict(const PlanInputs& inputs, const Variant& variant, const RankLoad& busiest);

/// Bytes of a row of x on a link: dispatched rows have their ids, weights and metadata beside them.
double bytes_on_link(const PlanInputs& inputs, Operation operation);

/// Of one rank, or of all that share the memory.
double memory_us(const PlanInputs& inputs, Operation operation, const RankLoad& load);
/// What each exchange of counts or of nothing takes.
double exchange_us(const PlanInputs& inputs);
/// What the processor does beside moving rows in memory: planning, waiting for others, sending messages.
double host_us(const PlanInputs& inputs, Operation operation, const RankLoad& load);

}  // namespace flexep::tool
