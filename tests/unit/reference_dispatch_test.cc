// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "flexep/reference.h"
#include "support/tensors.h"

namespace flexep::reference {
namespace {

using flexep::testing::tensor_of;
using flexep::testing::values_of;
using Counts = std::vector<std::int32_t>;
using Ids = std::vector<std::int64_t>;
using Floats = std::vector<float>;

// Two ranks, four experts: 0 and 1 live on rank 0, 2 and 3 on rank 1. Rows have two columns; the first names
// the token.
std::vector<RankInput> two_ranks() {
  return {{.x = tensor_of<float>({3, 2}, {1, 10, 2, 20, 3, 30}),
           .topk_idx = tensor_of<std::int64_t>({3, 2}, {0, 1,     // both on rank 0
                                                        3, 0,     // one on each
                                                        -1, 2}),  // one on rank 1
           .topk_weights = tensor_of<float>({3, 2}, {.1f, .2f, .3f, .4f, .5f, .6f})},
          {.x = tensor_of<float>({1, 2}, {4, 40}),
           .topk_idx = tensor_of<std::int64_t>({1, 2}, {2, 1}),
           .topk_weights = tensor_of<float>({1, 2}, {.7f, .8f})}};
}

TEST(ReferenceDispatchTest, CompactRowsAreOrderedBySourceRankAndToken) {
  const auto outputs = dispatch(two_ranks(), {.num_experts = 4});
  EXPECT_EQ(values_of<float>(outputs[0].x), (Floats{1, 10, 2, 20, 4, 40}));
  EXPECT_EQ(values_of<float>(outputs[1].x), (Floats{2, 20, 3, 30, 4, 40}));
}

TEST(ReferenceDispatchTest, CompactIdsAreLocalAndKeepTheirColumns) {
  const auto outputs = dispatch(two_ranks(), {.num_experts = 4});
  EXPECT_EQ(values_of<std::int64_t>(outputs[0].topk_idx), (Ids{0, 1, -1, 0, -1, 1}));
  EXPECT_EQ(values_of<std::int64_t>(outputs[1].topk_idx), (Ids{1, -1, -1, 0, 0, -1}));
}

TEST(ReferenceDispatchTest, CompactWeightsOfExpertsElsewhereAreZero) {
  const auto outputs = dispatch(two_ranks(), {.num_experts = 4});
  EXPECT_EQ(values_of<float>(outputs[0].topk_weights), (Floats{.1f, .2f, 0, .4f, 0, .8f}));
  EXPECT_EQ(values_of<float>(outputs[1].topk_weights), (Floats{.3f, 0, 0, .6f, .7f, 0}));
}

TEST(ReferenceDispatchTest, CountsAndPrefixSumsOfTheCompactLayout) {
  const auto outputs = dispatch(two_ranks(), {.num_experts = 4, .expert_alignment = 4});
  EXPECT_EQ(outputs[0].num_recv_tokens_per_expert, (Counts{2, 2}));
  EXPECT_EQ(outputs[1].num_recv_tokens_per_expert, (Counts{2, 1}));
  EXPECT_EQ(outputs[0].psum_num_recv_tokens_per_expert, (Counts{4, 8}));
  EXPECT_EQ(outputs[1].psum_num_recv_tokens_per_expert, (Counts{4, 8}));
  EXPECT_EQ(outputs[0].psum_num_recv_tokens_per_rank, (Counts{2, 3}));
  EXPECT_EQ(outputs[1].psum_num_recv_tokens_per_rank, (Counts{2, 3}));
}

TEST(ReferenceDispatchTest, ExpandedRowsAreGroupedByExpertAtAlignedStarts) {
  const auto outputs = dispatch(
      two_ranks(), {.num_experts = 4, .expert_alignment = 3, .do_expand = true, .do_zero_padding = true});
  EXPECT_EQ(values_of<float>(outputs[0].x), (Floats{1, 10, 2, 20, 0, 0, 1, 10, 4, 40, 0, 0}));
  EXPECT_EQ(values_of<float>(outputs[0].topk_weights), (Floats{.1f, .4f, 0, .2f, .8f, 0}));
  EXPECT_EQ(values_of<float>(outputs[1].x), (Floats{3, 30, 4, 40, 0, 0, 2, 20, 0, 0, 0, 0}));
  EXPECT_EQ(values_of<float>(outputs[1].topk_weights), (Floats{.6f, .7f, 0, .3f, 0, 0}));
  EXPECT_FALSE(outputs[0].topk_idx);
}

TEST(ReferenceDispatchTest, ExpandedPrefixSumsSayWhereAnExpertsRowsEnd) {
  const auto outputs = dispatch(two_ranks(), {.num_experts = 4, .expert_alignment = 3, .do_expand = true});
  EXPECT_EQ(outputs[0].psum_num_recv_tokens_per_expert, (Counts{2, 5}));
  EXPECT_EQ(outputs[1].psum_num_recv_tokens_per_expert, (Counts{2, 4}));
}

TEST(ReferenceDispatchTest, MetadataHasTheSourceIndexAndTheExpandedRowOfEachColumn) {
  const auto outputs = dispatch(two_ranks(), {.num_experts = 4, .expert_alignment = 3, .do_expand = true});
  EXPECT_EQ(values_of<std::int32_t>(outputs[0].recv_src_metadata), (Counts{0, 0, 0, 3,      // rank 0, token 0
                                                                           1, 0, -1, 1,     // rank 0, token 1
                                                                           3, 0, -1, 4}));  // rank 1, token 0
  EXPECT_EQ(values_of<std::int32_t>(outputs[1].recv_src_metadata), (Counts{1, 0, 3, -1,     //
                                                                           2, 0, -1, 0,     //
                                                                           3, 0, 1, -1}));
}

TEST(ReferenceDispatchTest, TheSourceIndexCountsInStepsOfTheAgreedMaximum) {
  const auto outputs = dispatch(two_ranks(), {.num_experts = 4, .num_max_tokens_per_rank = 100});
  const auto metadata = values_of<std::int32_t>(outputs[0].recv_src_metadata);
  EXPECT_EQ((Counts{metadata[0], metadata[4], metadata[8]}), (Counts{0, 1, 100}));
}

TEST(ReferenceDispatchTest, GapRowsArePoisonedUnlessTheyAreZeroed) {
  const auto outputs = dispatch(two_ranks(), {.num_experts = 4, .expert_alignment = 3, .do_expand = true});
  const auto* gap = static_cast<const unsigned char*>(outputs[0].x.rows(2, 3).data());
  EXPECT_EQ(gap[0], 0xFB);
  EXPECT_EQ(gap[7], 0xFB);
}

TEST(ReferenceDispatchTest, RankWithoutTokensStillReceives) {
  auto inputs = two_ranks();
  inputs[1] = {.x = Tensor::empty({0, 2}, DType::kFloat32),
               .topk_idx = Tensor::empty({0, 2}, DType::kInt64),
               .topk_weights = Tensor::empty({0, 2}, DType::kFloat32)};
  const auto outputs = dispatch(inputs, {.num_experts = 4});
  EXPECT_EQ(values_of<float>(outputs[1].x), (Floats{2, 20, 3, 30}));
  EXPECT_EQ(outputs[1].psum_num_recv_tokens_per_rank, (Counts{2, 2}));
}

TEST(ReferenceDispatchTest, NobodyRoutedAnythingGivesNoRows) {
  std::vector<RankInput> inputs(
      2, {.x = tensor_of<float>({1, 2}, {1, 2}), .topk_idx = tensor_of<std::int64_t>({1, 2}, {-1, -1})});
  const auto outputs = dispatch(inputs, {.num_experts = 4, .expert_alignment = 16, .do_expand = true});
  EXPECT_EQ(outputs[0].x.shape(), Shape({0, 2}));
  EXPECT_EQ(outputs[0].recv_src_metadata.shape(), Shape({0, 4}));
}

TEST(ReferenceDispatchTest, IdsComeBackInTheDTypeInWhichTheyWereSent) {
  auto inputs = two_ranks();
  inputs[0].topk_idx = tensor_of<std::int32_t>({3, 2}, {0, 1, 3, 0, -1, 2});
  inputs[1].topk_idx = tensor_of<std::int32_t>({1, 2}, {2, 1});
  const auto outputs = dispatch(inputs, {.num_experts = 4});
  EXPECT_EQ(values_of<std::int32_t>(outputs[0].topk_idx), (Counts{0, 1, -1, 0, -1, 1}));
  EXPECT_EQ(values_of<float>(outputs[1].x), (Floats{2, 20, 3, 30, 4, 40}));
}

TEST(ReferenceDispatchTest, ScalingFactorsLieBesideTheirRows) {
  auto inputs = two_ranks();
  inputs[0].sf = tensor_of<std::int32_t>({3, 3}, {11, 12, 13, 21, 22, 23, 31, 32, 33});
  inputs[1].sf = tensor_of<std::int32_t>({1, 3}, {41, 42, 43});
  const auto compact = dispatch(inputs, {.num_experts = 4});
  EXPECT_EQ(values_of<std::int32_t>(compact[0].sf), (Counts{11, 12, 13, 21, 22, 23, 41, 42, 43}));
  EXPECT_EQ(values_of<std::int32_t>(compact[1].sf), (Counts{21, 22, 23, 31, 32, 33, 41, 42, 43}));

  const auto expanded =
      dispatch(inputs, {.num_experts = 4, .expert_alignment = 3, .do_expand = true, .do_zero_padding = true});
  EXPECT_EQ(values_of<std::int32_t>(expanded[0].sf), (Counts{11, 12, 13, 21, 22, 23, 0, 0, 0,     // expert 0
                                                             11, 12, 13, 41, 42, 43, 0, 0, 0}));  // expert 1
}

TEST(ReferenceDispatchTest, ACompactLimitKeepsTheFirstRows) {
  const auto outputs = dispatch(two_ranks(), {.num_experts = 4, .max_recv_tokens = {2, 0}});
  EXPECT_EQ(values_of<float>(outputs[0].x), (Floats{1, 10, 2, 20}));  // not {4, 40}, for expert 1
  EXPECT_EQ(values_of<std::int64_t>(outputs[0].topk_idx), (Ids{0, 1, -1, 0}));
  EXPECT_EQ(outputs[0].num_recv_tokens_per_expert, (Counts{2, 1}));
  EXPECT_EQ(outputs[0].num_dropped_tokens, (Counts{0, 1}));
  EXPECT_EQ(outputs[0].psum_num_recv_tokens_per_rank, (Counts{2, 2}));
  EXPECT_EQ(outputs[1].x.size(0), 3);  // no limit there
  EXPECT_EQ(outputs[1].num_dropped_tokens, (Counts{0, 0}));
}

TEST(ReferenceDispatchTest, AnExpandedLimitKeepsAsManyPairsOfEachExpertAsFitAlike) {
  // Rank 1 has two pairs for expert 2 and one for expert 3: of the three only one each fits into two rows.
  const auto outputs =
      dispatch(two_ranks(), {.num_experts = 4, .do_expand = true, .max_recv_tokens = {0, 2}});
  EXPECT_EQ(values_of<float>(outputs[1].x), (Floats{3, 30, 2, 20}));
  EXPECT_EQ(values_of<float>(outputs[1].topk_weights), (Floats{.6f, .3f}));
  EXPECT_EQ(outputs[1].num_recv_tokens_per_expert, (Counts{1, 1}));
  EXPECT_EQ(outputs[1].num_dropped_tokens, (Counts{1, 0}));
  EXPECT_EQ(outputs[1].psum_num_recv_tokens_per_expert, (Counts{1, 2}));
  EXPECT_EQ(outputs[1].psum_num_recv_tokens_per_rank, (Counts{2, 2}));
  EXPECT_EQ(values_of<std::int32_t>(outputs[1].recv_src_metadata), (Counts{1, 0, 1, -1,     // rank 0, token 1
                                                                           2, 0, -1, 0}));  // rank 0, token 2
}

TEST(ReferenceDispatchTest, AnExpandedLimitCountsAlignedRows) {
  const auto rows_within = [](int limit) {
    return dispatch(two_ranks(), {.num_experts = 4,
                                  .expert_alignment = 2,
                                  .do_expand = true,
                                  .max_recv_tokens = {limit, limit}})[1]
        .x.size(0);
  };
  EXPECT_EQ(rows_within(4), 4);
  EXPECT_EQ(rows_within(3), 0);  // one pair each would need 4 rows
}

TEST(ReferenceDispatchTest, AnExpandedLimitMayDropOnePairOfATokenAndKeepAnother) {
  const std::vector<RankInput> one_rank{
      {.x = tensor_of<float>({2, 1}, {1, 2}), .topk_idx = tensor_of<std::int64_t>({2, 2}, {0, -1, 0, 1})}};
  const auto outputs = dispatch(one_rank, {.num_experts = 2, .do_expand = true, .max_recv_tokens = {2}});
  EXPECT_EQ(values_of<float>(outputs[0].x), (Floats{1, 2}));
  EXPECT_EQ(outputs[0].num_dropped_tokens, (Counts{1, 0}));
  EXPECT_EQ(values_of<std::int32_t>(outputs[0].recv_src_metadata), (Counts{0, 0, 0, -1,     // token 0
                                                                           1, 0, -1, 1}));  // token 1
}

}  // namespace
}  // namespace flexep::reference
