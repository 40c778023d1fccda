// SPDX-License-Identifier: Apache-2.0
//
// ElasticBuffer against the reference, ranks as threads. Over processes: `flexep check`, in this folder's
// CMakeLists.txt.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <tuple>

#include "conformance/random.h"
#include "expected_case.h"

namespace flexep::conformance {
namespace {

/// Number of ranks, dtype of the rows, expanded layout.
using Parameters = std::tuple<int, DType, bool>;

class ConformanceTest : public testing::TestWithParam<Parameters> {
 protected:
  /// Random but for what the parameters fix.
  CaseSpec draw(std::uint64_t seed) const {
    const auto [num_ranks, dtype, do_expand] = GetParam();
    CaseSpec spec = draw_case(seed, num_ranks);
    const int row_bytes = spec.hidden * static_cast<int>(size_of(spec.dtype));
    spec.dtype = dtype;
    spec.hidden = row_bytes / static_cast<int>(size_of(dtype));
    spec.do_expand = do_expand;
    spec.do_zero_padding = spec.do_zero_padding && do_expand;
    return spec;
  }
};

TEST_P(ConformanceTest, SameBitsAsTheReference) {
  std::vector<ExpectedCase> cases;
  for (std::uint64_t seed = 0; seed < 8; ++seed) cases.push_back({draw(seed)});
  in_process(std::get<0>(GetParam()), [&](Communicator& comm) { run_all(comm, cases); });
}

/// Beyond 4 MiB kernels store around the caches.
class LargeRowsConformanceTest : public ConformanceTest {};

TEST_P(LargeRowsConformanceTest, SameBitsAsTheReference) {
  const auto [num_ranks, dtype, do_expand] = GetParam();
  CaseSpec spec = draw(1);
  spec.num_tokens = {150, 170};
  spec.num_topk = 4;
  spec.num_experts = 8;
  spec.num_max_tokens_per_rank = 0;
  spec.do_cpu_sync = true;
  spec.routing = RoutingKind::kUniform;
  spec.hidden = 16384 / static_cast<int>(size_of(dtype));
  spec.expert_hidden = 32768 / static_cast<int>(size_of(spec.expert_dtype));
  const std::vector<ExpectedCase> cases{ExpectedCase{spec}};
  in_process(num_ranks, [&](Communicator& comm) { run_all(comm, cases); });
}

std::string name_of_parameters(const testing::TestParamInfo<Parameters>& info) {
  const auto [num_ranks, dtype, do_expand] = info.param;
  return fmt::format("{}Ranks_{}_{}", num_ranks, name_of(dtype), do_expand ? "expanded" : "compact");
}

const auto kRowDTypes =
    testing::Values(DType::kBFloat16, DType::kFloat16, DType::kFloat32, DType::kFloat64, DType::kFloat8E4M3);

INSTANTIATE_TEST_SUITE_P(All, ConformanceTest,
                         testing::Combine(testing::Values(1, 2, 3, 4, 7, 8), kRowDTypes, testing::Bool()),
                         name_of_parameters);
INSTANTIATE_TEST_SUITE_P(TwoRanks, LargeRowsConformanceTest,
                         testing::Combine(testing::Values(2), kRowDTypes, testing::Bool()),
                         name_of_parameters);

}  // namespace
}  // namespace flexep::conformance
