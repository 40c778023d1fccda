// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "routing/count_summary.h"
#include "routing/routing_shape.h"

namespace flexep {

/// [R], the most rows that each rank's output may have; 0 = no limit.
using RowLimits = std::span<const std::int32_t>;

/// Whether some rank would receive more rows than its limit. The same answer on all ranks, which all know the
/// totals.
bool exceeds_limits(const CountSummary& counts, const RoutingShape& shape, RowLimits limits);

/// Sets the ids of this rank's pairs that do not fit to -1; what is left is routed as if they had never been
/// there.
///
/// Compact: a rank keeps its first rows. Expanded: expert i of a rank keeps its first min(c_i, q) pairs, q
/// the largest number with which the aligned rows of all the rank's experts fit its limit. A function of the
/// counts alone.
/// @param ids  [T, K], validated; changed in place.
void drop_pairs(std::span<std::int64_t> ids, const CountSummary& counts, const RoutingShape& shape,
                RowLimits limits);

}  // namespace flexep
