// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "flexep/error.h"
#include "flexep/plan_model.h"
#include "routing/drops.h"
#include "routing/receive_layout.h"
#include "routing/routing_counts.h"
#include "routing/send_plan.h"

namespace flexep {
namespace {

using Ints = std::vector<std::int32_t>;

// Two ranks, four experts, top-2. Source 0 sends (0, 2), (1, 0), (-1, 3); source 1 sends (3, 2).
const std::vector<std::int64_t> kIds0 = {0, 2, 1, 0, -1, 3};
const std::vector<std::int64_t> kIds1 = {3, 2};

RoutingShape shape(bool do_expand, int expert_alignment = 1) {
  return {.num_ranks = 2,
          .num_experts = 4,
          .num_topk = 2,
          .expert_alignment = expert_alignment,
          .do_expand = do_expand};
}

TopkIds topk(const std::vector<std::int64_t>& ids) {
  return {.ids = ids, .num_tokens = static_cast<int>(ids.size() / 2), .num_topk = 2};
}

struct Counts {
  RoutingCounts source0;
  RoutingCounts source1;
  std::vector<std::span<const std::int32_t>> all;

  explicit Counts(const RoutingShape& s)
      : source0(count_routing(topk(kIds0), s, 0)), source1(count_routing(topk(kIds1), s, 1)) {
    all = {source0.block(), source1.block()};
  }

  CountSummary of(int rank) const { return summarise_counts(all, rank); }
};

Ints to_vector(std::span<const std::int32_t> values) {
  return {values.begin(), values.end()};
}

TEST(RoutingTest, CountsTokensOncePerRankAndPairsPerExpert) {
  const Counts counts(shape(false));
  EXPECT_EQ(to_vector(counts.source0.block()), (Ints{2, 2, 2, 1, 1, 1}));
  EXPECT_EQ(to_vector(counts.source1.block()), (Ints{0, 1, 0, 0, 1, 1}));
}

TEST(RoutingTest, SummaryHoldsSumsBeforeARankAndOverAll) {
  const Counts counts(shape(false));
  const CountSummary summary = counts.of(1);
  EXPECT_EQ(summary.before, (std::vector<std::int64_t>{2, 2, 2, 1, 1, 1}));
  EXPECT_EQ(summary.total, (std::vector<std::int64_t>{2, 3, 2, 1, 2, 2}));
  EXPECT_EQ(summary.received, (Ints{2, 1})) << "tokens for rank 1";
  EXPECT_EQ(summary.own, (Ints{0, 1, 0, 0, 1, 1}));
  EXPECT_EQ(counts.of(0).before, std::vector<std::int64_t>(6));
}

TEST(RoutingTest, RowsBeyond31BitsAreRefusedWhoeverReceivesThem) {
  const std::vector<std::int32_t> half = {1 << 30, 1 << 30, 1 << 30, 0, 0, 0};
  const std::vector<std::span<const std::int32_t>> all = {half, half};
  EXPECT_THROW(plan_receive_sizes(summarise_counts(all, 0), shape(false)), InvalidArgument);
  EXPECT_THROW(plan_receive(summarise_counts(all, 1), shape(false), 1), InvalidArgument);
}

TEST(RoutingTest, CompactRowsFollowSourceRankAndToken) {
  const Counts counts(shape(false));
  const auto receive = plan_receive(counts.of(1), shape(false), 1);
  EXPECT_EQ(receive.num_recv_tokens, 3);
  EXPECT_EQ(receive.psum_num_recv_tokens_per_rank, (Ints{2, 3}));
  const auto send0 = plan_send(topk(kIds0), counts.of(0), shape(false));
  EXPECT_EQ(send0.owner, (Ints{0, 1, 0, 0, -1, 1}));
  EXPECT_EQ(send0.row[0], 0);  // token 0 at rank 0
  EXPECT_EQ(send0.row[1], 0);  // token 0 at rank 1
  EXPECT_EQ(send0.row[2], 1);  // token 1 at rank 0, both columns
  EXPECT_EQ(send0.row[3], 1);
  EXPECT_EQ(send0.row[5], 1);  // token 2 at rank 1
  EXPECT_EQ(send0.masters, (std::vector<std::int64_t>{0, 1, 3, 5}));
  EXPECT_EQ(send0.master_begin, (std::vector<std::int64_t>{0, 2, 3, 4}));
  EXPECT_EQ(send0.num_rows_per_rank, (Ints{2, 2}));
  const auto send1 = plan_send(topk(kIds1), counts.of(1), shape(false));
  EXPECT_EQ(send1.row, (Ints{2, 2}));
}

TEST(RoutingTest, ExpandedRowsFollowExpertThenSourceAndStartAligned) {
  const RoutingShape aligned = shape(true, 4);
  const Counts counts(aligned);
  const auto receive = plan_receive(counts.of(1), aligned, 1);
  EXPECT_EQ(receive.num_recv_tokens_per_expert, (Ints{2, 2}));
  EXPECT_EQ(receive.num_aligned_recv_tokens_per_expert, (Ints{4, 4}));
  EXPECT_EQ(receive.expert_start_rows, (Ints{0, 4}));
  EXPECT_EQ(receive.psum_num_recv_tokens_per_expert, (Ints{2, 6}));
  EXPECT_EQ(receive.num_expanded_tokens, 8);
  const auto send0 = plan_send(topk(kIds0), counts.of(0), aligned);
  EXPECT_EQ(send0.row[0], 0);  // expert 0, first
  EXPECT_EQ(send0.row[3], 1);  // expert 0, second
  EXPECT_EQ(send0.row[2], 4);  // expert 1 starts at the alignment
  EXPECT_EQ(send0.row[1], 0);  // expert 2 = local 0 of rank 1
  EXPECT_EQ(send0.row[5], 4);  // expert 3 = local 1 of rank 1
  EXPECT_EQ(send0.num_rows_per_rank, (Ints{3, 2}));
  EXPECT_EQ(send0.num_tokens_per_rank, (Ints{2, 2}));
  const auto send1 = plan_send(topk(kIds1), counts.of(1), aligned);
  EXPECT_EQ(send1.row, (Ints{5, 1}));
}

TEST(RoutingTest, OwnersOfExpertsAreQuotients) {
  for (const int num_local_experts : {1, 2, 3, 7, 48, 641, 21845, 65535, 65536}) {
    const int num_ranks = 65536 / num_local_experts;
    const RoutingShape s{.num_ranks = num_ranks, .num_experts = num_ranks * num_local_experts};
    const ExpertOwners owners(s);
    int num_wrong = 0;
    for (int expert = 0; expert < s.num_experts; ++expert)
      num_wrong += owners[expert] != expert / num_local_experts;
    EXPECT_EQ(num_wrong, 0) << num_local_experts << " experts a rank";
  }
}

TEST(RoutingTest, BadIdsAreNamed) {
  const auto message_of = [](const std::vector<std::int64_t>& ids) -> std::string {
    try {
      count_routing(topk(ids), shape(false), 1);
    } catch (const InvalidArgument& error) {
      EXPECT_EQ(error.argument(), "topk_idx");
      return error.what();
    }
    return {};
  };
  EXPECT_EQ(message_of({0, 1, 2, 4}), "topk_idx on rank 1: token 1, column 1 is 4, outside [-1, 4)");
  EXPECT_EQ(message_of({-2, 1}), "topk_idx on rank 1: token 0, column 0 is -2, outside [-1, 4)");
  EXPECT_EQ(message_of({3, 3}), "topk_idx on rank 1: token 0 names expert 3 twice, in columns 0 and 1");
  EXPECT_EQ(message_of({-1, -1}), "");
}

std::vector<std::int64_t> kept_of(int rank, const RoutingShape& s, const std::vector<std::int32_t>& limits) {
  const Counts counts(s);
  auto ids = rank == 0 ? kIds0 : kIds1;
  drop_pairs(ids, counts.of(rank), s, limits);
  return ids;
}

TEST(DropTest, CompactOutputKeepsItsFirstRows) {
  // Rank 1 receives tokens 0 and 2 of rank 0 and token 0 of rank 1; two fit.
  EXPECT_TRUE(exceeds_limits(Counts(shape(false)).of(0), shape(false), std::vector<std::int32_t>{0, 2}));
  EXPECT_FALSE(exceeds_limits(Counts(shape(false)).of(0), shape(false), std::vector<std::int32_t>{2, 3}));
  EXPECT_EQ(kept_of(0, shape(false), {0, 2}), kIds0);
  EXPECT_EQ(kept_of(1, shape(false), {0, 2}), (std::vector<std::int64_t>{-1, -1}));
}

TEST(DropTest, ExpandedOutputKeepsTheSameNumberOfFirstPairsOfEachExpert) {
  // Rank 1's experts 2 and 3 have two pairs each, one from each source. Aligned to 4 both need 8 rows with
  // any quota but 0.
  EXPECT_EQ(kept_of(0, shape(true), {0, 3}), kIds0) << "a quota of 1 keeps the pairs of rank 0";
  EXPECT_EQ(kept_of(1, shape(true), {0, 3}), (std::vector<std::int64_t>{-1, -1}));
  EXPECT_EQ(kept_of(0, shape(true, 4), {0, 7}), (std::vector<std::int64_t>{0, -1, 1, 0, -1, -1}));
  EXPECT_EQ(kept_of(1, shape(true, 4), {0, 8}), kIds1);
}

// Published or recomputed figures of DeepEP V2.
TEST(BufferSizeHintTest, MatchesKnownFigures) {
  EXPECT_EQ(get_buffer_size_hint({.num_scaleout_ranks = 2,
                                  .num_scaleup_ranks = 8,
                                  .num_max_tokens_per_rank = 4096,
                                  .hidden = 7168,
                                  .num_topk = 8}),
            1218445312);
  EXPECT_EQ(get_buffer_size_hint(
                {.num_scaleup_ranks = 8, .num_max_tokens_per_rank = 4096, .hidden = 7168, .num_topk = 8}),
            473956352);
  EXPECT_EQ(get_buffer_size_hint({.num_scaleup_ranks = 8, .num_max_tokens_per_rank = 4096, .hidden = 7168}),
            484442112);
  EXPECT_EQ(get_buffer_size_hint({.num_scaleup_ranks = 8,
                                  .num_max_tokens_per_rank = 4096,
                                  .hidden = 7168,
                                  .num_topk = 8,
                                  .use_fp8_dispatch = true}),
            471859200);
  EXPECT_EQ(get_buffer_size_hint({.num_scaleout_ranks = 2,
                                  .num_scaleup_ranks = 8,
                                  .num_max_tokens_per_rank = 4096,
                                  .hidden = 7168,
                                  .num_topk = 8,
                                  .allow_multiple_reduction = false}),
            2654994432);
  EXPECT_EQ(get_buffer_size_hint({.num_scaleout_ranks = 4,
                                  .num_scaleup_ranks = 8,
                                  .num_max_tokens_per_rank = 4096,
                                  .hidden = 7168,
                                  .num_topk = 8}),
            2434793472);
  EXPECT_EQ(get_buffer_size_hint({.num_scaleup_ranks = 16,
                                  .num_nvlink_ranks = 8,
                                  .num_max_tokens_per_rank = 4096,
                                  .hidden = 7168,
                                  .num_topk = 8}),
            1415577600);
  EXPECT_EQ(get_buffer_size_hint(
                {.num_scaleup_ranks = 2, .num_max_tokens_per_rank = 64, .hidden = 512, .num_topk = 4}),
            2097152);
}

TEST(BufferSizeHintTest, MissingSizesAreNamed) {
  EXPECT_THROW(get_buffer_size_hint({.num_scaleup_ranks = 8, .hidden = 7168}), InvalidArgument);
  EXPECT_THROW(get_buffer_size_hint({.num_scaleup_ranks = 8, .num_max_tokens_per_rank = 1, .hidden = 8}),
               InvalidArgument);
}

}  // namespace
}  // namespace flexep
