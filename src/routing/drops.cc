// SPDX-License-Identifier: Apache-2.0
#include "routing/drops.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "common/math.h"

namespace flexep {
namespace {

constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

std::int64_t num_tokens_to(AllCounts counts, int rank) {
  std::int64_t total = 0;
  for (const auto source : counts) total += source[static_cast<std::size_t>(rank)];
  return total;
}

std::int64_t num_pairs_of(AllCounts counts, const RoutingShape& shape, std::size_t expert) {
  std::int64_t total = 0;
  for (const auto source : counts) total += source[static_cast<std::size_t>(shape.num_ranks) + expert];
  return total;
}

// [El], pairs of each expert of `rank`.
std::vector<std::int64_t> pairs_of_rank(AllCounts counts, const RoutingShape& shape, int rank) {
  std::vector<std::int64_t> pairs;
  const int first = rank * shape.num_local_experts();
  for (int i = 0; i < shape.num_local_experts(); ++i) {
    pairs.push_back(num_pairs_of(counts, shape, static_cast<std::size_t>(first + i)));
  }
  return pairs;
}

// Rows of an expanded output whose experts keep at most `quota` pairs each.
std::int64_t num_rows_with(std::span<const std::int64_t> pairs, const RoutingShape& shape,
                           std::int64_t quota) {
  std::int64_t rows = 0;
  for (const std::int64_t count : pairs)
    rows += align_up(std::min(count, quota), std::int64_t{shape.expert_alignment});
  return rows;
}

// q: rows grow with it, so the largest that fits is found by bisection.
std::int64_t largest_quota(std::span<const std::int64_t> pairs, const RoutingShape& shape,
                           std::int64_t limit) {
  std::int64_t fits = 0;
  std::int64_t too_large = *std::ranges::max_element(pairs) + 1;
  if (num_rows_with(pairs, shape, too_large) <= limit) return kNoLimit;
  while (too_large - fits > 1) {
    const std::int64_t middle = fits + (too_large - fits) / 2;
    (num_rows_with(pairs, shape, middle) <= limit ? fits : too_large) = middle;
  }
  return fits;
}

// Compact: this rank's tokens to each destination come after those of the ranks before it; the rows beyond
// the limit go.
void drop_tokens(std::span<std::int64_t> ids, AllCounts counts, const RoutingShape& shape, RowLimits limits,
                 int rank) {
  const auto num_ranks = static_cast<std::size_t>(shape.num_ranks);
  std::vector<std::int64_t> next_row(num_ranks);
  for (std::size_t r = 0; r < num_ranks; ++r)
    next_row[r] = num_tokens_to(counts.first(static_cast<std::size_t>(rank)), static_cast<int>(r));
  std::vector<std::int64_t> row_of_token(num_ranks);
  std::vector<std::int64_t> last_token(num_ranks, -1);
  for (std::size_t pair = 0; pair < ids.size(); ++pair) {
    if (ids[pair] < 0) continue;
    const auto token = static_cast<std::int64_t>(pair) / shape.num_topk;
    const auto owner = static_cast<std::size_t>(shape.owner_of(ids[pair]));
    if (last_token[owner] != token) row_of_token[owner] = next_row[owner]++;
    last_token[owner] = token;
    if (limits[owner] > 0 && row_of_token[owner] >= limits[owner]) ids[pair] = -1;
  }
}

// Expanded: this rank's pairs of each expert come after those of the ranks before it; those beyond the quota
// go.
void drop_expert_pairs(std::span<std::int64_t> ids, AllCounts counts, const RoutingShape& shape,
                       RowLimits limits, int rank) {
  std::vector<std::int64_t> quota(static_cast<std::size_t>(shape.num_ranks), kNoLimit);
  for (int r = 0; r < shape.num_ranks; ++r) {
    const std::int32_t limit = limits[static_cast<std::size_t>(r)];
    if (limit > 0)
      quota[static_cast<std::size_t>(r)] = largest_quota(pairs_of_rank(counts, shape, r), shape, limit);
  }
  std::vector<std::int64_t> next_pair(static_cast<std::size_t>(shape.num_experts));
  for (std::size_t e = 0; e < next_pair.size(); ++e) {
    next_pair[e] = num_pairs_of(counts.first(static_cast<std::size_t>(rank)), shape, e);
  }
  for (std::int64_t& id : ids) {
    if (id < 0) continue;
    const std::int64_t position = next_pair[static_cast<std::size_t>(id)]++;
    if (position >= quota[static_cast<std::size_t>(shape.owner_of(id))]) id = -1;
  }
}

}  // namespace

bool exceeds_limits(AllCounts counts, const RoutingShape& shape, RowLimits limits) {
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    const std::int32_t limit = limits[static_cast<std::size_t>(rank)];
    if (limit == 0) continue;
    const std::int64_t num_rows = shape.do_expand
                                      ? num_rows_with(pairs_of_rank(counts, shape, rank), shape, kNoLimit)
                                      : num_tokens_to(counts, rank);
    if (num_rows > limit) return true;
  }
  return false;
}

void drop_pairs(std::span<std::int64_t> ids, AllCounts counts, const RoutingShape& shape, RowLimits limits,
                int rank) {
  if (shape.do_expand) {
    drop_expert_pairs(ids, counts, shape, limits, rank);
  } else {
    drop_tokens(ids, counts, shape, limits, rank);
  }
}

}  // namespace flexep
