// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "flexep/moe/permute.h"

namespace flexep::moe {

/// The permutation that `options` make of a contiguous int32 map [rows, experts].
/// @throws InvalidArgument that names `num_out_tokens` or `align_size`.
Permutation make_permutation(const Tensor& routing_map, const PermuteOptions& options);

/// The permuted rows that each source row has, in permuted order.
class CopiesOfRows {
 public:
  explicit CopiesOfRows(const Permutation& permutation);
  std::span<const std::int32_t> of(std::int64_t row) const {
    const auto r = static_cast<std::size_t>(row);
    return std::span(copies_).subspan(begins_[r], begins_[r + 1] - begins_[r]);
  }

 private:
  std::vector<std::size_t> begins_;  // [rows + 1]
  std::vector<std::int32_t> copies_;
};

/// Calls visit(permuted row, source row, expert) for each permuted row that is no padding, in permuted order.
template <typename Visitor>
void for_each_pair(const Permutation& permutation, Visitor&& visit) {
  const auto sources = permutation.sorted_indices.values<std::int32_t>();
  const auto experts = permutation.sorted_experts.values<std::int32_t>();
  for (std::size_t i = 0; i < sources.size(); ++i)
    if (sources[i] >= 0) visit(i, sources[i], static_cast<std::size_t>(experts[i]));
}

}  // namespace flexep::moe
