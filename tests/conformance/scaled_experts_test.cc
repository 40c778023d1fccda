// SPDX-License-Identifier: Apache-2.0
//
// combine(experts(dispatch(x))) where expert e multiplies by 2^e: every sum is exact in every type, and a row
// at a wrong place, from a wrong expert or counted twice, shows in the result.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "conformance/compare.h"
#include "conformance/random.h"
#include "flexep/elastic_buffer.h"

namespace flexep::conformance {
namespace {

constexpr int kNumTokens = 40;
constexpr int kHidden = 24;
constexpr int kNumTopk = 3;

/// At most 8 experts, so that the sum of some of 1, 2, 4, ... fits the 8 bits of bf16.
int num_experts_of(int num_ranks) {
  return num_ranks * (8 / num_ranks);
}

std::vector<std::int64_t> draw_ids(int rank, int num_experts) {
  Random random(17, static_cast<std::uint64_t>(rank));
  std::vector<std::int64_t> ids;
  for (int token = 0; token < kNumTokens; ++token) {
    const int first = random.in_range(0, num_experts - 1);
    for (int k = 0; k < kNumTopk; ++k) ids.push_back(random.one_in(6) ? -1 : (first + k) % num_experts);
  }
  return ids;
}

template <typename T>
float number(T value) {
  return static_cast<float>(value);
}

/// Each element a power of two of its own kind.
template <typename T>
Tensor draw_rows(int rank) {
  Random random(23, static_cast<std::uint64_t>(rank));
  Tensor x = Tensor::empty({kNumTokens, kHidden}, kDTypeOf<T>);
  for (T& element : x.values<T>()) {
    const float sign = random.one_in(2) ? -1.0f : 1.0f;
    element = T(std::ldexp(sign, random.in_range(-7, 7)));
  }
  return x;
}

template <typename T>
void scale_row(T* to, const T* from, float factor) {
  for (int column = 0; column < kHidden; ++column) to[column] = T(number(from[column]) * factor);
}

/// What the experts of a token's row on this rank make of it together.
float factor_of_row(const DispatchResult& received, std::int64_t row, int first_expert) {
  float factor = 0;
  for (int k = 0; k < kNumTopk; ++k) {
    const auto expert = static_cast<int>(received.topk_idx.data<std::int64_t>()[row * kNumTopk + k]);
    if (expert >= 0) factor += std::ldexp(1.0f, first_expert + expert);
  }
  return factor;
}

template <typename T>
void run_experts(const DispatchResult& received, int first_expert, const Tensor& y) {
  const T* rows = received.x.data<T>();
  if (!received.handle.do_expand()) {
    for (std::int64_t row = 0; row < y.size(0); ++row) {
      const float factor = factor_of_row(received, row, first_expert);
      scale_row(y.data<T>() + row * kHidden, rows + row * kHidden, factor);
    }
    return;
  }
  const auto starts = received.handle.expert_start_rows(),
             counts = received.handle.num_recv_tokens_per_expert();
  for (std::size_t expert = 0; expert < starts.size(); ++expert) {
    const float factor = std::ldexp(1.0f, first_expert + static_cast<int>(expert));
    for (int row = starts[expert]; row < starts[expert] + counts[expert]; ++row) {
      scale_row(y.data<T>() + row * kHidden, rows + row * kHidden, factor);
    }
  }
}

template <typename T>
Tensor expected_rows(const Tensor& x, const std::vector<std::int64_t>& ids) {
  Tensor expected = Tensor::zeros(x.shape(), x.dtype());
  for (std::int64_t token = 0; token < kNumTokens; ++token) {
    float factor = 0;
    for (int k = 0; k < kNumTopk; ++k) {
      const auto id = ids[static_cast<std::size_t>(token * kNumTopk + k)];
      if (id >= 0) factor += std::ldexp(1.0f, static_cast<int>(id));
    }
    if (factor > 0) scale_row(expected.data<T>() + token * kHidden, x.data<T>() + token * kHidden, factor);
  }
  return expected;
}

template <typename T>
void round_trip(Communicator& comm, bool do_expand, bool allow_multiple_reduction) {
  ElasticBuffer buffer(comm, {.allow_multiple_reduction = allow_multiple_reduction});
  const int num_experts = num_experts_of(comm.num_ranks());
  const auto ids = draw_ids(comm.rank(), num_experts);
  const Tensor x = draw_rows<T>(comm.rank());
  const Tensor topk_idx = Tensor::from_values(std::span(ids), {kNumTokens, kNumTopk});
  const auto received =
      buffer.dispatch({.x = x, .topk_idx = topk_idx, .num_experts = num_experts, .do_expand = do_expand});
  const Tensor y = buffer.empty(received.x.shape(), x.dtype());
  run_experts<T>(received, comm.rank() * num_experts / comm.num_ranks(), y);
  const auto combined = buffer.combine({.x = y, .handle = received.handle});
  const auto mismatch = first_mismatch(expected_rows<T>(x, ids), combined.x);
  EXPECT_FALSE(mismatch) << "rank " << comm.rank() << ": " << *mismatch;
}

/// Number of ranks, dtype, expanded layout, multiple reduction.
using Parameters = std::tuple<int, DType, bool, bool>;
class ScaledExpertsTest : public ::testing::TestWithParam<Parameters> {};

TEST_P(ScaledExpertsTest, TheRoundTripIsExact) {
  const auto [num_ranks, dtype, do_expand, allow_multiple_reduction] = GetParam();
  visit_summable(dtype, [&]<typename T>(T) {
    in_process(num_ranks, [&](Communicator& comm) {
      round_trip<T>(comm, std::get<2>(GetParam()), std::get<3>(GetParam()));
    });
  });
}

std::string name_of_parameters(const ::testing::TestParamInfo<Parameters>& info) {
  const auto [num_ranks, dtype, do_expand, allow_multiple_reduction] = info.param;
  return fmt::format("{}Ranks_{}_{}{}", num_ranks, name_of(dtype), do_expand ? "expanded" : "compact",
                     allow_multiple_reduction ? "" : "_single");
}

INSTANTIATE_TEST_SUITE_P(All, ScaledExpertsTest,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4, 7),
                                            ::testing::Values(DType::kBFloat16, DType::kFloat16,
                                                              DType::kFloat32, DType::kFloat64),
                                            ::testing::Bool(), ::testing::Bool()),
                         name_of_parameters);

}  // namespace
}  // namespace flexep::conformance
