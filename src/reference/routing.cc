// SPDX-License-Identifier: Apache-2.0
#include "reference/routing.h"

#include <algorithm>
#include <optional>

namespace flexep::reference {
namespace {

bool is_empty(const Arrival& token) {
  return std::ranges::all_of(token.local_expert, [](int expert) { return expert < 0; });
}

std::int64_t id_at(const Tensor& topk_idx, std::int64_t index) {
  return topk_idx.dtype() == DType::kInt32 ? topk_idx.data<std::int32_t>()[index]
                                           : topk_idx.data<std::int64_t>()[index];
}

/// The token as `rank` sees it, or nothing when none of its experts lives there.
std::optional<Arrival> arrival_of(const Tensor& topk_idx, int src_rank, int src_token, int rank,
                                  int num_local_experts) {
  Arrival arrival{.src_rank = src_rank, .src_token = src_token};
  const std::int64_t num_topk = topk_idx.size(1);
  for (std::int64_t k = 0; k < num_topk; ++k) {
    const std::int64_t expert = id_at(topk_idx, src_token * num_topk + k);
    const bool lives_here = expert >= 0 && expert / num_local_experts == rank;
    arrival.local_expert.push_back(lives_here ? static_cast<int>(expert % num_local_experts) : -1);
  }
  if (is_empty(arrival)) return std::nullopt;
  return arrival;
}

/// [El], pairs of each local expert.
std::vector<std::int32_t> count_pairs(const std::vector<Arrival>& tokens, int num_local_experts) {
  std::vector<std::int32_t> counts(static_cast<std::size_t>(num_local_experts), 0);
  for (const auto& token : tokens) {
    for (const int expert : token.local_expert) {
      if (expert >= 0) ++counts[static_cast<std::size_t>(expert)];
    }
  }
  return counts;
}

/// The largest number of pairs that each expert may keep so that all experts' aligned rows fit the limit.
int largest_quota(const std::vector<std::int32_t>& counts, int alignment, int limit) {
  int quota = *std::ranges::max_element(counts);
  const auto num_rows = [&] {
    int rows = 0;
    for (const int count : counts) rows += (std::min(count, quota) + alignment - 1) / alignment * alignment;
    return rows;
  };
  while (num_rows() > limit) --quota;
  return quota;
}

/// Compact: the first rows stay. Expanded: each expert keeps its first pairs, and tokens that keep none go.
void apply_limit(std::vector<Arrival>& tokens, const DispatchOptions& options, int num_local_experts,
                 int limit) {
  if (!options.do_expand) {
    if (static_cast<int>(tokens.size()) > limit) tokens.resize(static_cast<std::size_t>(limit));
    return;
  }
  const int quota = largest_quota(count_pairs(tokens, num_local_experts), options.expert_alignment, limit);
  std::vector<int> num_kept(static_cast<std::size_t>(num_local_experts), 0);
  for (auto& token : tokens) {
    for (int& expert : token.local_expert) {
      if (expert >= 0 && num_kept[static_cast<std::size_t>(expert)]++ >= quota) expert = -1;
    }
  }
  std::erase_if(tokens, is_empty);
}

void count_tokens(Arrivals& arrivals, int num_local_experts, int alignment) {
  arrivals.num_tokens = count_pairs(arrivals.tokens, num_local_experts);
  for (const std::int32_t count : arrivals.num_tokens) {
    arrivals.start_row.push_back(arrivals.num_expanded_rows);
    arrivals.num_aligned.push_back((count + alignment - 1) / alignment * alignment);
    arrivals.num_expanded_rows += arrivals.num_aligned.back();
  }
}

/// Rows of the expanded layout are ordered by (local expert, source rank, source token).
void place_rows(Arrivals& arrivals) {
  std::vector<std::int32_t> next_row = arrivals.start_row;
  for (auto& token : arrivals.tokens) {
    for (const int expert : token.local_expert) {
      token.expanded_row.push_back(expert >= 0 ? next_row[static_cast<std::size_t>(expert)]++ : -1);
    }
  }
}

}  // namespace

std::vector<Arrivals> route(std::span<const RankInput> inputs, const DispatchOptions& options) {
  const int num_ranks = static_cast<int>(inputs.size());
  const int num_local_experts = options.num_experts / num_ranks;
  std::vector<Arrivals> all(inputs.size());
  for (int rank = 0; rank < num_ranks; ++rank) {
    Arrivals& arrivals = all[static_cast<std::size_t>(rank)];
    for (int src_rank = 0; src_rank < num_ranks; ++src_rank) {
      const Tensor& topk_idx = inputs[static_cast<std::size_t>(src_rank)].topk_idx;
      for (int token = 0; token < topk_idx.size(0); ++token) {
        auto arrival = arrival_of(topk_idx, src_rank, token, rank, num_local_experts);
        if (arrival) arrivals.tokens.push_back(std::move(*arrival));
      }
    }
    arrivals.num_dropped = count_pairs(arrivals.tokens, num_local_experts);
    const int limit =
        options.max_recv_tokens.empty() ? 0 : options.max_recv_tokens[static_cast<std::size_t>(rank)];
    if (limit > 0) apply_limit(arrivals.tokens, options, num_local_experts, limit);
    count_tokens(arrivals, num_local_experts, options.expert_alignment);
    for (std::size_t i = 0; i < arrivals.num_dropped.size(); ++i)
      arrivals.num_dropped[i] -= arrivals.num_tokens[i];
    place_rows(arrivals);
  }
  return all;
}

}  // namespace flexep::reference
