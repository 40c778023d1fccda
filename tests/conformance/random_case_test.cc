// SPDX-License-Identifier: Apache-2.0
//
// The checker itself: does it look everywhere, and does it see a difference?
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "conformance/case_data.h"
#include "conformance/compare.h"
#include "conformance/run_case.h"
#include "support/tensors.h"

namespace flexep::conformance {
namespace {

using flexep::testing::tensor_of;
using flexep::testing::values_of;

TEST(RandomCaseTest, TheSameSeedGivesTheSameCase) {
  const CaseSpec spec = draw_case(7, 3);
  EXPECT_EQ(spec.to_string(), draw_case(7, 3).to_string());
  const auto first = make_inputs(spec), second = make_inputs(spec);
  for (std::size_t rank = 0; rank < first.size(); ++rank) {
    EXPECT_FALSE(first_mismatch(first[rank].x, second[rank].x));
    EXPECT_FALSE(first_mismatch(first[rank].topk_idx, second[rank].topk_idx));
  }
}

TEST(RandomCaseTest, AnotherSeedGivesAnotherCase) {
  EXPECT_NE(draw_case(7, 3).to_string(), draw_case(8, 3).to_string());
}

TEST(RandomCaseTest, IdsAreDistinctAndInRange) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const CaseSpec spec = draw_case(seed, 4);
    for (const auto& input : make_inputs(spec)) {
      const auto ids = values_of<std::int64_t>(input.topk_idx);
      for (std::size_t token = 0; token < ids.size(); token += static_cast<std::size_t>(spec.num_topk)) {
        std::set<std::int64_t> seen;
        for (int k = 0; k < spec.num_topk; ++k) {
          const std::int64_t id = ids[token + static_cast<std::size_t>(k)];
          ASSERT_TRUE(id >= -1 && id < spec.num_experts);
          ASSERT_TRUE(id == -1 || seen.insert(id).second);
        }
      }
    }
  }
}

TEST(RandomCaseTest, EveryKindOfCaseIsDrawn) {
  std::set<DType> dtypes;
  std::set<RoutingKind> routings;
  std::set<ValueKind> values;
  std::set<int> alignments;
  int num_expanded = 0, num_single = 0, num_zeroed = 0, num_weighted = 0, num_idle_ranks = 0, num_async = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    const CaseSpec spec = draw_case(seed, 4);
    dtypes.insert(spec.dtype);
    routings.insert(spec.routing);
    values.insert(spec.values);
    alignments.insert(spec.expert_alignment);
    num_expanded += spec.do_expand;
    num_single += !spec.allow_multiple_reduction;
    num_zeroed += spec.do_zero_padding;
    num_async += spec.is_async;
    num_weighted += spec.weights_dtype.has_value();
    for (const int num_tokens : spec.num_tokens) num_idle_ranks += num_tokens == 0;
  }
  EXPECT_EQ(dtypes.size(), 3u);
  EXPECT_EQ(routings.size(), 6u);
  EXPECT_EQ(values.size(), 3u);
  EXPECT_EQ(alignments, (std::set<int>{1, 3, 16, 128}));
  for (const int count : {num_expanded, num_single, num_zeroed, num_weighted, num_idle_ranks, num_async})
    EXPECT_GT(count, 30);
}

TEST(RandomCaseTest, SpecialValuesIncludeNanInfinityZerosAndSubnormals) {
  CaseSpec spec = draw_case(1, 1);
  spec.num_tokens = {100};
  spec.dtype = DType::kFloat32;
  spec.hidden = 16;
  spec.values = ValueKind::kSpecial;
  int num_nan = 0, num_infinite = 0, num_negative_zero = 0, num_subnormal = 0, num_normal = 0;
  for (const float value : values_of<float>(make_inputs(spec)[0].x)) {
    num_nan += std::isnan(value);
    num_infinite += std::isinf(value);
    num_negative_zero += value == 0 && std::signbit(value);
    num_subnormal += std::fpclassify(value) == FP_SUBNORMAL;
    num_normal += std::isnormal(value);
  }
  for (const int count : {num_nan, num_infinite, num_negative_zero, num_subnormal, num_normal})
    EXPECT_GT(count, 50);
}

TEST(FirstMismatchTest, NamesRowColumnAndBothValues) {
  const auto expected = tensor_of<float>({2, 2}, {1, 2, 3, 4});
  const auto got = tensor_of<float>({2, 2}, {1, 2, 3, 5});
  EXPECT_EQ(first_mismatch(expected, got), "row 1, column 1: expected 0x40800000 (4), got 0x40A00000 (5)");
}

TEST(FirstMismatchTest, ComparesBitsNotNumbers) {
  EXPECT_TRUE(first_mismatch(tensor_of<float>({1}, {0.0f}), tensor_of<float>({1}, {-0.0f})));
  const float nan = std::nanf("1");
  EXPECT_FALSE(first_mismatch(tensor_of<float>({1}, {nan}), tensor_of<float>({1}, {nan})));
}

TEST(FirstMismatchTest, SkipsRowsThatDoNotCount) {
  const auto expected = tensor_of<float>({3, 1}, {1, 2, 3});
  const auto got = tensor_of<float>({3, 1}, {1, 9, 3});
  EXPECT_FALSE(first_mismatch(expected, got, {true, false, true}));
  EXPECT_TRUE(first_mismatch(expected, got, {true, true, true}));
}

TEST(FirstMismatchTest, ShapeDtypeAndPresenceCount) {
  const auto one = tensor_of<float>({1}, {1});
  EXPECT_EQ(first_mismatch(one, Tensor()), "expected fp32 [1], got no tensor");
  EXPECT_EQ(first_mismatch(one, tensor_of<double>({1}, {1})), "expected fp32 [1], got fp64 [1]");
  EXPECT_EQ(first_mismatch(one, tensor_of<float>({1, 1}, {1})), "expected fp32 [1], got fp32 [1, 1]");
}

/// A case in which rank 0 receives rows, weights and metadata.
CaseSpec full_case() {
  CaseSpec spec = draw_case(3, 1);
  spec.num_tokens = {20};
  spec.routing = RoutingKind::kUniform;
  spec.weights_dtype = DType::kFloat32;
  spec.do_expand = true;
  spec.values = ValueKind::kOrdinary;
  return spec;
}

/// What the runner finds when one bit of the expected results is wrong.
std::string finding_after(const std::function<void(ExpectedResults&)>& spoil) {
  const CaseSpec spec = full_case();
  ExpectedResults expected(spec);
  spoil(expected);
  CaseRunner runner(Communicator::self());
  return runner.run(spec, expected).value_or("");
}

void flip_a_bit(const Tensor& tensor) {
  *static_cast<unsigned char*>(tensor.data()) ^= 1;
}

TEST(CaseRunnerTest, SeesAWrongBitInEachResult) {
  EXPECT_EQ(finding_after([](auto&) {}), "");
  const auto starts_with = [](const std::string& text, std::string_view start) {
    return text.rfind(start, 0) == 0;
  };
  EXPECT_TRUE(starts_with(finding_after([](auto& e) { flip_a_bit(e.received[0].x); }), "dispatch, recv.x"));
  EXPECT_TRUE(starts_with(finding_after([](auto& e) { flip_a_bit(e.received[0].topk_weights); }),
                          "dispatch, recv.topk_weights"));
  EXPECT_TRUE(starts_with(finding_after([](auto& e) { flip_a_bit(e.received[0].recv_src_metadata); }),
                          "handle.recv_src_metadata"));
  EXPECT_TRUE(starts_with(finding_after([](auto& e) { ++e.received[0].psum_num_recv_tokens_per_rank[0]; }),
                          "handle.psum_num_recv_tokens_per_rank"));
  EXPECT_TRUE(
      starts_with(finding_after([](auto& e) { flip_a_bit(e.cached_received[0].x); }), "cached dispatch"));
  EXPECT_TRUE(starts_with(finding_after([](auto& e) { flip_a_bit(e.combined[0].x); }),
                          "combine from arena memory, x"));
  EXPECT_TRUE(starts_with(finding_after([](auto& e) { flip_a_bit(e.combined[0].topk_weights); }),
                          "combine from arena memory, topk_weights"));
  EXPECT_TRUE(starts_with(finding_after([](auto& e) { flip_a_bit(e.round_trip[0].x); }),
                          "combine of what dispatch delivered"));
}

}  // namespace
}  // namespace flexep::conformance
