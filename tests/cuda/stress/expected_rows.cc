// SPDX-License-Identifier: Apache-2.0
#include "cuda/stress/expected_rows.h"

namespace flexep::stress {
namespace {

/// Calls visit(src_rank, token) in the order of (source rank, source token).
template <typename Visit>
void for_each_token(const Round& round, Visit visit) {
  for (int src_rank = 0; src_rank < round.num_ranks(); ++src_rank)
    for (int token = 0; token < round.num_tokens(src_rank); ++token) visit(src_rank, token);
}

/// The number of an expert on its rank, -1 where it is another rank's or none.
std::int64_t local_expert(const Round& round, std::int64_t expert, int rank) {
  const std::int64_t local = expert - std::int64_t{rank} * round.num_local_experts();
  return expert >= 0 && local >= 0 && local < round.num_local_experts() ? local : -1;
}

ExpectedDispatch compact(const Round& round, int rank) {
  ExpectedDispatch expected;
  expected.num_per_expert.resize(static_cast<std::size_t>(round.num_local_experts()));
  for_each_token(round, [&](int src_rank, int token) {
    std::vector<std::int64_t> ids;
    std::vector<float> weights;
    float scale = 0;
    for (int column = 0; column < round.num_topk; ++column) {
      const std::int64_t expert = round.expert(src_rank, token, column);
      ids.push_back(local_expert(round, expert, rank));
      weights.push_back(ids.back() < 0 ? 0 : round.topk_weight(src_rank, token, column));
      if (ids.back() < 0) continue;
      scale += scale_of_expert(expert);
      ++expected.num_per_expert[static_cast<std::size_t>(ids.back())];
    }
    if (scale == 0) return;
    expected.rows.push_back({src_rank, token});
    expected.expert_scales.push_back(scale);
    expected.topk_idx.insert(expected.topk_idx.end(), ids.begin(), ids.end());
    expected.topk_weights.insert(expected.topk_weights.end(), weights.begin(), weights.end());
  });
  return expected;
}

void add_rows_of_expert(const Round& round, std::int64_t expert, ExpectedDispatch& expected) {
  const std::size_t begin = expected.rows.size();
  for_each_token(round, [&](int src_rank, int token) {
    for (int column = 0; column < round.num_topk; ++column) {
      if (round.expert(src_rank, token, column) != expert) continue;
      expected.rows.push_back({src_rank, token});
      expected.topk_weights.push_back(round.topk_weight(src_rank, token, column));
    }
  });
  expected.num_per_expert.push_back(static_cast<std::int32_t>(expected.rows.size() - begin));
  const std::int32_t gap = round.do_zero_padding ? ExpectedRow::kZeros : ExpectedRow::kAnything;
  while (expected.rows.size() % static_cast<std::size_t>(round.expert_alignment) != 0) {
    expected.rows.push_back({.src_rank = gap});
    expected.topk_weights.push_back(0);
  }
  expected.expert_scales.resize(expected.rows.size(), scale_of_expert(expert));
}

}  // namespace

ExpectedDispatch expected_dispatch(const Round& round, int rank) {
  if (!round.do_expand) return compact(round, rank);
  ExpectedDispatch expected;
  for (int local = 0; local < round.num_local_experts(); ++local)
    add_rows_of_expert(round, std::int64_t{rank} * round.num_local_experts() + local, expected);
  return expected;
}

ExpectedCombine expected_combine(const Round& round, int rank) {
  ExpectedCombine expected;
  for (int token = 0; token < round.num_tokens(rank); ++token) {
    ExpectedRow row{.src_rank = rank, .token = token, .scale = 0};
    for (int column = 0; column < round.num_topk; ++column) {
      const std::int64_t expert = round.expert(rank, token, column);
      if (expert >= 0) row.scale += scale_of_expert(expert);
      expected.topk_weights.push_back(expert >= 0 ? round.topk_weight(rank, token, column) : 0);
    }
    if (row.scale == 0) row.src_rank = ExpectedRow::kZeros;
    expected.rows.push_back(row);
  }
  return expected;
}

}  // namespace flexep::stress
