// SPDX-License-Identifier: Apache-2.0
#include "routing/routing_counts.h"

#include <algorithm>

#include "common/check.h"

namespace flexep {
namespace {

[[noreturn]] void throw_bad_id(const TopkIds& topk_idx, const RoutingShape& shape, int rank, int token,
                               int column) {
  const auto ids = topk_idx.of(token);
  const auto id = ids[static_cast<std::size_t>(column)];
  const auto first = std::find(ids.begin(), ids.end(), id) - ids.begin();
  if (id < -1 || id >= shape.num_experts) {
    throw InvalidArgument(
        "topk_idx", fmt::format("topk_idx on rank {}: token {}, column {} is {}, outside [-1, {})", rank,
                                token, column, id, shape.num_experts));
  }
  throw InvalidArgument(
      "topk_idx", fmt::format("topk_idx on rank {}: token {} names expert {} twice, in columns {} and {}",
                              rank, token, id, first, column));
}

}  // namespace

RoutingCounts count_routing(const TopkIds& topk_idx, const RoutingShape& shape, int rank) {
  RoutingCounts counts(shape);
  const auto tokens_per_rank = counts.tokens_per_rank();
  const auto pairs_per_expert = counts.pairs_per_expert();
  // The last token that named each expert, and that went to each rank: finds repetitions without comparing
  // columns.
  std::vector<std::int32_t> last_token_of_expert(pairs_per_expert.size(), -1);
  const ExpertOwners owners(shape);
  std::vector<std::int32_t> last_token_of_rank(tokens_per_rank.size(), -1);
  for (int token = 0; token < topk_idx.num_tokens; ++token) {
    const auto ids = topk_idx.of(token);
    for (int column = 0; column < topk_idx.num_topk; ++column) {
      const std::int64_t id = ids[static_cast<std::size_t>(column)];
      if (id == -1) continue;
      if (id < -1 || id >= shape.num_experts) throw_bad_id(topk_idx, shape, rank, token, column);
      const auto expert = static_cast<std::size_t>(id);
      if (last_token_of_expert[expert] == token) throw_bad_id(topk_idx, shape, rank, token, column);
      last_token_of_expert[expert] = token;
      ++pairs_per_expert[expert];
      // Without a branch: where a token goes is random.
      const auto owner = static_cast<std::size_t>(owners[id]);
      tokens_per_rank[owner] += last_token_of_rank[owner] != token;
      last_token_of_rank[owner] = token;
    }
  }
  return counts;
}

}  // namespace flexep
