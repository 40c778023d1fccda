// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "flexep/moe/moe_config.h"
#include "flexep/moe/permute.h"

namespace flexep::moe {

/// Which rows an all-to-all dispatch moves, in counts. A chunk is the rows of one expert from one rank.
struct AllToAllPlan {
  std::vector<std::int32_t> num_sent;      ///< [ep], rows to each rank of the expert-parallel group
  std::vector<std::int32_t> num_received;  ///< [ep], rows from each
  std::vector<std::int32_t>
      num_gathered;  ///< [tp], rows that each rank of the tensor-parallel group received
  /// tp * ep * El chunks arrive by (tp_idx, ep_idx) of their source, then local expert, and are put in order
  /// by local expert, then (tp_idx, ep_idx).
  ChunkOrder chunks;
  std::vector<std::int32_t> tokens_per_expert;  ///< [El], of all sources
};

/// @param counts  [ranks][E], by member index: the rows that each rank sends to each expert.
AllToAllPlan plan_alltoall(const MoeConfig& config, int rank,
                           const std::vector<std::vector<std::int32_t>>& counts);

}  // namespace flexep::moe
