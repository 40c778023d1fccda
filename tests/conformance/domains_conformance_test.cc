// SPDX-License-Identifier: Apache-2.0
//
// ElasticBuffer across domains against the reference: threads that share memory only with those of their own
// domain.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <tuple>

#include "expected_case.h"

namespace flexep::conformance {
namespace {

/// Domains, ranks of each, expanded layout, multiple reduction.
using Parameters = std::tuple<std::pair<int, int>, bool, bool>;

class DomainsConformanceTest : public testing::TestWithParam<Parameters> {
 protected:
  /// Random but for what the parameters fix, hybrid and direct in turn.
  CaseSpec draw(std::uint64_t seed) const {
    const auto [size, do_expand, allow_multiple_reduction] = GetParam();
    CaseSpec spec = draw_case(seed, size.first * size.second, size.first);
    spec.do_expand = do_expand;
    spec.do_zero_padding = spec.do_zero_padding && do_expand;
    spec.allow_multiple_reduction = allow_multiple_reduction;
    spec.allow_hybrid_mode = seed % 2 == 0;
    return spec;
  }
};

TEST_P(DomainsConformanceTest, SameBitsAsTheReference) {
  std::vector<ExpectedCase> cases;
  for (std::uint64_t seed = 0; seed < 24; ++seed) cases.push_back({draw(seed)});
  const auto [num_domains, num_scaleup_ranks] = std::get<0>(GetParam());
  in_process(num_domains * num_scaleup_ranks, [&](Communicator& comm) { run_all(comm, cases); },
             {.timeout = std::chrono::seconds(100), .num_scaleup_ranks = num_scaleup_ranks});
}

/// Several waves of whole messages.
class LargeRowsDomainsConformanceTest : public DomainsConformanceTest {};

TEST_P(LargeRowsDomainsConformanceTest, SameBitsAsTheReference) {
  CaseSpec spec = draw(2);
  spec.num_tokens = {70, 0, 90, 30};
  spec.num_topk = 4;
  spec.num_experts = 8;
  spec.num_max_tokens_per_rank = 0;
  spec.do_cpu_sync = true;
  spec.routing = RoutingKind::kUniform;
  spec.has_little_staging = false;
  spec.hidden = 16384 / static_cast<int>(size_of(spec.dtype));
  spec.expert_hidden = 16384 / static_cast<int>(size_of(spec.expert_dtype));
  const std::vector<ExpectedCase> cases{ExpectedCase{spec}};
  in_process(4, [&](Communicator& comm) { run_all(comm, cases); },
             {.timeout = std::chrono::seconds(100), .num_scaleup_ranks = 2});
}

std::string name_of_parameters(const testing::TestParamInfo<Parameters>& info) {
  const auto [size, do_expand, allow_multiple_reduction] = info.param;
  return fmt::format("{}x{}_{}_{}", size.first, size.second, do_expand ? "expanded" : "compact",
                     allow_multiple_reduction ? "multiple" : "single");
}

INSTANTIATE_TEST_SUITE_P(All, DomainsConformanceTest,
                         testing::Combine(testing::Values(std::pair(2, 1), std::pair(2, 2), std::pair(3, 1),
                                                          std::pair(4, 2), std::pair(2, 3)),
                                          testing::Bool(), testing::Bool()),
                         name_of_parameters);

INSTANTIATE_TEST_SUITE_P(TwoByTwo, LargeRowsDomainsConformanceTest,
                         testing::Combine(testing::Values(std::pair(2, 2)), testing::Bool(), testing::Bool()),
                         name_of_parameters);

}  // namespace
}  // namespace flexep::conformance
