// SPDX-License-Identifier: Apache-2.0
#include "routing/drops.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "common/math.h"

namespace flexep {
namespace {

constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

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
void drop_tokens(std::span<std::int64_t> ids, const CountSummary& counts, const RoutingShape& shape,
                 RowLimits limits) {
  const auto num_ranks = static_cast<std::size_t>(shape.num_ranks);
  std::vector<std::int64_t> next_row(counts.before.begin(), counts.before.begin() + shape.num_ranks);
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
void drop_expert_pairs(std::span<std::int64_t> ids, const CountSummary& counts, const RoutingShape& shape,
                       RowLimits limits) {
  std::vector<std::int64_t> quota(static_cast<std::size_t>(shape.num_ranks), kNoLimit);
  for (int r = 0; r < shape.num_ranks; ++r) {
    const std::int32_t limit = limits[static_cast<std::size_t>(r)];
    if (limit > 0)
      quota[static_cast<std::size_t>(r)] = largest_quota(counts.pairs_of(r, shape), shape, limit);
  }
  std::vector<std::int64_t> next_pair(counts.before.begin() + shape.num_ranks, counts.before.end());
  for (std::int64_t& id : ids) {
    if (id < 0) continue;
    const std::int64_t position = next_pair[static_cast<std::size_t>(id)]++;
    if (position >= quota[static_cast<std::size_t>(shape.owner_of(id))]) id = -1;
  }
}

}  // namespace

bool exceeds_limits(const CountSummary& counts, const RoutingShape& shape, RowLimits limits) {
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    const std::int32_t limit = limits[static_cast<std::size_t>(rank)];
    if (limit == 0) continue;
    const std::int64_t num_rows = shape.do_expand
                                      ? num_rows_with(counts.pairs_of(rank, shape), shape, kNoLimit)
                                      : counts.num_tokens_to(rank);
    if (num_rows > limit) return true;
  }
  return false;
}

void drop_pairs(std::span<std::int64_t> ids, const CountSummary& counts, const RoutingShape& shape,
                RowLimits limits) {
  if (shape.do_expand) {
    drop_expert_pairs(ids, counts, shape, limits);
  } else {
    drop_tokens(ids, counts, shape, limits);
  }
}

}  // namespace flexep
