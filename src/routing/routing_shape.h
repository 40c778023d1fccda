// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace flexep {

/// What all ranks agree on before a dispatch is planned.
struct RoutingShape {
  int num_ranks = 1;
  int num_experts = 1;  ///< E, a multiple of num_ranks
  int num_topk = 1;     ///< K
  int expert_alignment = 1;
  bool do_expand = false;

  int num_local_experts() const { return num_experts / num_ranks; }
  int owner_of(std::int64_t expert) const { return static_cast<int>(expert) / num_local_experts(); }
  /// [E], owner_of as a table, for loops over pairs: a division for each would be half their time.
  std::vector<std::int32_t> owners_of_experts() const {
    std::vector<std::int32_t> owners;
    owners.reserve(static_cast<std::size_t>(num_experts));
    for (int rank = 0; rank < num_ranks; ++rank)
      owners.insert(owners.end(), static_cast<std::size_t>(num_local_experts()), rank);
    return owners;
  }
};

/// One rank's top-k experts: [num_tokens, num_topk], -1 = not routed.
struct TopkIds {
  std::span<const std::int64_t> ids;
  int num_tokens = 0;
  int num_topk = 0;

  std::span<const std::int64_t> of(int token) const {
    return ids.subspan(static_cast<std::size_t>(token) * static_cast<std::size_t>(num_topk),
                       static_cast<std::size_t>(num_topk));
  }
};

}  // namespace flexep
