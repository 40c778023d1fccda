// SPDX-License-Identifier: Apache-2.0
//
// The checker itself: does it look everywhere, and does it see a difference?
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <iterator>
#include <optional>
#include <set>
#include <string>
#include <vector>

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
    EXPECT_FALSE(first_mismatch(first[rank].topk_weights, second[rank].topk_weights));
    EXPECT_FALSE(first_mismatch(first[rank].sf, second[rank].sf));
  }
}

TEST(RandomCaseTest, AnotherSeedGivesAnotherCase) {
  EXPECT_NE(draw_case(7, 3).to_string(), draw_case(8, 3).to_string());
}

std::vector<std::int64_t> ids_of(const Tensor& topk_idx) {
  if (topk_idx.dtype() == DType::kInt64) return values_of<std::int64_t>(topk_idx);
  const auto ids = topk_idx.values<std::int32_t>();
  return {ids.begin(), ids.end()};
}

TEST(RandomCaseTest, IdsAreDistinctAndInRange) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const CaseSpec spec = draw_case(seed, 4);
    for (const auto& input : make_inputs(spec)) {
      ASSERT_EQ(input.topk_idx.dtype(), spec.idx_dtype);
      const auto ids = ids_of(input.topk_idx);
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

/// Cases as `flexep check` draws them.
class DrawnCasesTest : public ::testing::Test {
 protected:
  DrawnCasesTest() {
    for (std::uint64_t seed = 0; seed < 300; ++seed) cases_.push_back(draw_case(seed, 4));
  }

  template <typename T>
  std::set<T> values_drawn(T CaseSpec::*field) const {
    std::set<T> values;
    for (const CaseSpec& spec : cases_) values.insert(spec.*field);
    return values;
  }

  template <typename Condition>
  std::int64_t num_cases(Condition condition) const {
    return std::ranges::count_if(cases_, condition);
  }

  std::vector<CaseSpec> cases_;
};

const std::set<DType> kSummable{DType::kBFloat16, DType::kFloat16, DType::kFloat32, DType::kFloat64};
const std::set<DType> kOpaque{DType::kFloat8E4M3, DType::kUInt8, DType::kInt8,
                              DType::kInt16,      DType::kInt32, DType::kInt64};

TEST_F(DrawnCasesTest, HaveEveryDType) {
  std::set<DType> payloads = kSummable;
  payloads.insert(kOpaque.begin(), kOpaque.end());
  EXPECT_EQ(values_drawn(&CaseSpec::dtype), payloads);
  EXPECT_EQ(values_drawn(&CaseSpec::expert_dtype), kSummable);
  EXPECT_EQ(values_drawn(&CaseSpec::idx_dtype), (std::set{DType::kInt32, DType::kInt64}));
  EXPECT_EQ(values_drawn(&CaseSpec::weights_dtype),
            (std::set<std::optional<DType>>{std::nullopt, DType::kFloat32, DType::kFloat64}));
}

TEST_F(DrawnCasesTest, HaveEveryRoutingValueAndAlignment) {
  EXPECT_EQ(values_drawn(&CaseSpec::routing).size(), 6u);
  EXPECT_EQ(values_drawn(&CaseSpec::values).size(), 3u);
  EXPECT_EQ(values_drawn(&CaseSpec::expert_alignment), (std::set<int>{1, 3, 16, 128}));
}

TEST_F(DrawnCasesTest, HaveEachOptionOftenButNotAlways) {
  for (const auto option : {&CaseSpec::do_expand, &CaseSpec::do_zero_padding, &CaseSpec::is_async,
                            &CaseSpec::allow_multiple_reduction, &CaseSpec::is_strided,
                            &CaseSpec::sf_is_col_major, &CaseSpec::do_handle_copy, &CaseSpec::do_cpu_sync}) {
    EXPECT_GT(num_cases([&](const CaseSpec& spec) { return spec.*option; }), 30);
    EXPECT_GT(num_cases([&](const CaseSpec& spec) { return !(spec.*option); }), 30);
  }
}

TEST_F(DrawnCasesTest, HaveRanksWithoutTokens) {
  EXPECT_GT(num_cases([](const CaseSpec& spec) { return std::ranges::count(spec.num_tokens, 0) > 0; }), 30);
}

TEST_F(DrawnCasesTest, HaveScalingFactorsInEveryDTypeAndLayout) {
  for (const DType dtype : {DType::kFloat32, DType::kInt32}) {
    for (const bool is_col_major : {false, true}) {
      for (const bool is_strided : {false, true}) {
        EXPECT_GT(num_cases([&](const CaseSpec& spec) {
                    return spec.num_sf_packs > 0 && spec.sf_dtype == dtype &&
                           spec.sf_is_col_major == is_col_major && spec.is_strided == is_strided;
                  }),
                  2)
            << name_of(dtype) << (is_col_major ? ", by columns" : "") << (is_strided ? ", strided" : "");
      }
    }
  }
}

TEST_F(DrawnCasesTest, HaveNoneOneAndTwoBiasesOfEverySummableDType) {
  for (const DType dtype : kSummable) {
    for (const int num_biases : {0, 1, 2}) {
      EXPECT_GT(num_cases([&](const CaseSpec& spec) {
                  return spec.expert_dtype == dtype && spec.num_biases == num_biases;
                }),
                2)
          << num_biases << " of " << name_of(dtype);
    }
  }
}

/// Whether a rank's limit drops anything.
bool drops(const CaseSpec& spec) {
  const auto has_dropped = [](std::int32_t num_dropped) { return num_dropped > 0; };
  return std::ranges::any_of(
      reference::dispatch(make_inputs(spec), spec.dispatch_options()),
      [&](const auto& output) { return std::ranges::any_of(output.num_dropped_tokens, has_dropped); });
}

TEST_F(DrawnCasesTest, HaveLimitsThatDropAndLimitsThatDoNotInBothLayouts) {
  for (const bool do_expand : {false, true}) {
    std::vector<CaseSpec> limited;
    std::ranges::copy_if(cases_, std::back_inserter(limited), [&](const CaseSpec& spec) {
      return spec.do_expand == do_expand && *std::ranges::max_element(spec.max_recv_tokens) > 0;
    });
    const auto num_dropping = std::ranges::count_if(limited, drops);
    EXPECT_GT(num_dropping, 5);
    EXPECT_GT(std::ssize(limited) - num_dropping, 5);
  }
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

/// A case of one rank in which every kind of result has something in it: the limit drops.
CaseSpec full_case(bool do_expand) {
  return {.seed = 3,
          .num_tokens = {20},
          .num_topk = 4,
          .num_experts = 8,
          .expert_alignment = 3,
          .do_expand = do_expand,
          .dtype = DType::kFloat32,
          .expert_dtype = DType::kFloat32,
          .weights_dtype = DType::kFloat32,
          .num_sf_packs = 3,
          .num_biases = 2,
          .max_recv_tokens = {do_expand ? 60 : 15}};
}

using Spoil = std::function<void(ExpectedResults&)>;

/// What the runner finds when something that it expects is wrong.
std::string finding_after(const CaseSpec& spec, const Spoil& spoil) {
  ExpectedResults expected(spec);
  spoil(expected);
  CaseRunner runner(Communicator::self());
  return runner.run(spec, expected).value_or("");
}

void flip_a_bit(const Tensor& tensor) {
  *static_cast<unsigned char*>(tensor.data()) ^= 1;
}

/// Findings read "what: how it differs".
void expect_it_is_seen(const CaseSpec& spec, const std::string& what, const Spoil& spoil) {
  const std::string finding = finding_after(spec, spoil);
  EXPECT_EQ(finding.substr(0, finding.find(": ")), what) << finding << "\n" << spec.to_string();
}

class CaseRunnerTest : public ::testing::TestWithParam<bool> {
 protected:
  CaseSpec spec_ = full_case(GetParam());
};

TEST_P(CaseRunnerTest, FindsNothingWhenAllIsRight) {
  EXPECT_EQ(finding_after(spec_, [](ExpectedResults&) {}), "");
}

TEST_P(CaseRunnerTest, TheFullCaseDrops) {
  EXPECT_TRUE(drops(spec_));
}

TEST_P(CaseRunnerTest, SeesAWrongBitInWhatDispatchDelivers) {
  const auto expect_seen = [&](const std::string& what, Tensor reference::RankOutput::*tensor) {
    expect_it_is_seen(spec_, "dispatch, " + what, [&](auto& e) { flip_a_bit(e.received[0].*tensor); });
    expect_it_is_seen(spec_, "cached dispatch, " + what,
                      [&](auto& e) { flip_a_bit(e.cached_received[0].*tensor); });
  };
  expect_seen("recv.x", &reference::RankOutput::x);
  expect_seen("recv.sf", &reference::RankOutput::sf);
  expect_seen("recv.topk_weights", &reference::RankOutput::topk_weights);
  if (!spec_.do_expand) expect_seen("recv.topk_idx", &reference::RankOutput::topk_idx);
}

TEST_P(CaseRunnerTest, SeesAWrongBitInTheHandle) {
  expect_it_is_seen(spec_, "handle.topk_idx", [](auto& e) { flip_a_bit(e.kept_topk_idx[0]); });
  expect_it_is_seen(spec_, "handle.recv_src_metadata",
                    [](auto& e) { flip_a_bit(e.received[0].recv_src_metadata); });
}

TEST_P(CaseRunnerTest, SeesAWrongCount) {
  expect_it_is_seen(spec_, "cumulative_local_expert_recv_stats",
                    [](auto& e) { ++e.num_routed_tokens_per_expert[0][0]; });
  expect_it_is_seen(spec_, "handle.num_dropped_tokens",
                    [](auto& e) { ++e.received[0].num_dropped_tokens[0]; });
  expect_it_is_seen(spec_, "handle.psum_num_recv_tokens_per_rank",
                    [](auto& e) { ++e.received[0].psum_num_recv_tokens_per_rank[0]; });
}

TEST_P(CaseRunnerTest, SeesAWrongBitInWhatCombineMakes) {
  expect_it_is_seen(spec_, "combine from arena memory, x", [](auto& e) { flip_a_bit(e.combined[0].x); });
  expect_it_is_seen(spec_, "combine from arena memory, topk_weights",
                    [](auto& e) { flip_a_bit(e.combined[0].topk_weights); });
  expect_it_is_seen(spec_, "combine of what dispatch delivered, x",
                    [](auto& e) { flip_a_bit(e.round_trip[0].x); });
}

TEST_P(CaseRunnerTest, SeesThatABiasDidNotCount) {
  for (const std::size_t i : {0u, 1u}) {
    expect_it_is_seen(spec_, "combine from arena memory, x", [&](auto& e) {
      const Tensor& bias = e.expert_outputs[0].bias[i];
      std::memset(bias.data(), 0, bias.num_bytes());
    });
  }
}

std::string name_of_layout(const ::testing::TestParamInfo<bool>& info) {
  return info.param ? "expanded" : "compact";
}

INSTANTIATE_TEST_SUITE_P(Layouts, CaseRunnerTest, ::testing::Bool(), name_of_layout);

}  // namespace
}  // namespace flexep::conformance
