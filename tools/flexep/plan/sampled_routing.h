// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "plan/plan_inputs.h"

namespace flexep::tool {

/// [num_rows, num_columns] counts.
class CountTable {
 public:
  CountTable(int num_rows, int num_columns)
      : num_columns_(static_cast<std::size_t>(num_columns)),
        counts_(static_cast<std::size_t>(num_rows) * num_columns_) {}

  std::int32_t& at(int row, int column) { return counts_[index(row, column)]; }
  std::int32_t at(int row, int column) const { return counts_[index(row, column)]; }

 private:
  std::size_t index(int row, int column) const {
    return static_cast<std::size_t>(row) * num_columns_ + static_cast<std::size_t>(column);
  }

  std::size_t num_columns_;
  std::vector<std::int32_t> counts_;
};

/// Rows that a rank receives in a dispatch.
struct ReceivedRows {
  double num_tokens = 0;
  double num_expanded = 0;  ///< with every expert's aligned
};

/// What all ranks send, of routings drawn with the skew, as the library's own planning counts and places it.
struct SampledRouting {
  int num_sampled_tokens = 0;  ///< of each rank; counts are theirs
  double scale = 1;            ///< tokens of a rank over sampled ones

  CountTable tokens;                   ///< [R, R], (token, rank) from each source to each destination
  CountTable pairs;                    ///< [R, R], (token, expert)
  CountTable domains;                  ///< [R, SO], (token, domain)
  std::vector<ReceivedRows> received;  ///< [R], scaled
};

/// Draws at most `max_total_tokens` tokens in all, at least 16 of each rank or all it has.
/// Cost: O(tokens K log E + R (R + E)) time, R (R + E) counts of memory.
SampledRouting sample_routing(const PlanInputs& inputs, std::int64_t max_total_tokens);

}  // namespace flexep::tool
