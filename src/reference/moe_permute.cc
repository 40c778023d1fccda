// SPDX-License-Identifier: Apache-2.0
#include "reference/moe_matrix.h"

namespace flexep::moe::reference {

Permuted permute(const Matrix& rows, const Matrix& routing_map, const Matrix& probs) {
  Permuted permuted;
  const std::size_t num_experts = routing_map.empty() ? 0 : routing_map.front().size();
  for (std::size_t expert = 0; expert < num_experts; ++expert) {
    int count = 0;
    for (std::size_t row = 0; row < rows.size(); ++row) {
      if (routing_map[row][expert] == 0) continue;
      permuted.rows.push_back(rows[row]);
      permuted.probs.push_back(probs[row][expert]);
      permuted.sorted_indices.push_back(static_cast<int>(row));
      ++count;
    }
    permuted.tokens_per_expert.push_back(count);
  }
  return permuted;
}

Matrix unpermute(const Matrix& permuted, std::span<const int> sorted_indices, std::size_t num_rows) {
  Matrix sums = zeros(num_rows, permuted.empty() ? 0 : permuted.front().size());
  for (std::size_t i = 0; i < permuted.size(); ++i)
    add_scaled(sums[static_cast<std::size_t>(sorted_indices[i])], 1.0, permuted[i]);
  return sums;
}

}  // namespace flexep::moe::reference
