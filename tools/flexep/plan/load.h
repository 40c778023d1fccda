// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "plan/sampled_routing.h"
#include "plan/variant.h"

namespace flexep::tool {

/// What one operation asks of one rank: payload rows through each of its resources. Of a dispatch a rank's
/// rows are those that it sends, of a combine those that it gets back.
struct RankLoad {
  double local = 0;          ///< rows that it stores for, or reads from, its own experts
  double scaleup = 0;        ///< over its link, to ranks of its domain; with forwarded ones
  double forwarded = 0;      ///< of them, rows of ranks of other domains that it passes on
  double scaleout = 0;       ///< over its network, to other domains
  double scaleup_back = 0;   ///< the same over the other direction of the link
  double scaleout_back = 0;  ///< and of the network
  double rows_read = 0;      ///< of its memory
  double rows_written = 0;
  double pairs = 0;     ///< (token, expert) of its own tokens
  double messages = 0;  ///< that it sends between domains, each up to the longest

  double link_rows() const { return scaleup > scaleup_back ? scaleup : scaleup_back; }
  double net_rows() const { return scaleout > scaleout_back ? scaleout : scaleout_back; }
};

struct Load {
  RankLoad mean;     ///< over ranks
  RankLoad busiest;  ///< the largest of each entry, not all of one rank
};

/// Expected rows of a uniform routing, alike on all ranks (docs/plan.md).
Load uniform_load(const PlanInputs& inputs, const Variant& variant);

/// Rows of a sampled routing. Cost: O(R^2).
Load sampled_load(const PlanInputs& inputs, const SampledRouting& routing, const Variant& variant);

/// Messages that `rows` for one partner need.
double messages_of(double rows, const PlanInputs& inputs);

}  // namespace flexep::tool
