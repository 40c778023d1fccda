// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "flexep/reference.h"

namespace flexep::reference {

/// A token that a rank receives; it comes once, however many of its experts live there.
struct Arrival {
  int src_rank = 0;
  int src_token = 0;
  /// [K], the local expert that each column chose, -1 where the column's expert lives elsewhere.
  std::vector<int> local_expert;
  /// [K], the column's row in the expanded layout, -1 where its expert lives elsewhere.
  std::vector<int> expanded_row;
};

/// Everything that one rank receives. An arrival's index in `tokens` is its row in the compact layout.
struct Arrivals {
  std::vector<Arrival> tokens;            ///< ordered by (source rank, source token)
  std::vector<std::int32_t> num_tokens;   ///< [El], (token, column) pairs per local expert
  std::vector<std::int32_t> num_aligned;  ///< [El], the same, each rounded up to the alignment
  std::vector<std::int32_t> start_row;    ///< [El], first row of each local expert in the expanded layout
  std::vector<std::int32_t> num_dropped;  ///< [El], pairs that did not fit the rank's limit
  std::int32_t num_expanded_rows = 0;
};

/// What each rank receives.
std::vector<Arrivals> route(std::span<const RankInput> inputs, const DispatchOptions& options);

}  // namespace flexep::reference
