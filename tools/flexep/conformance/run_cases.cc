// SPDX-License-Identifier: Apache-2.0
#include "conformance/run_cases.h"

#include <fmt/format.h>

#include "conformance/random.h"
#include "conformance/run_case.h"

namespace flexep::conformance {
namespace {

/// What each rank found, as one text; empty when nobody found anything.
std::string gather_findings(Communicator& comm, const std::string& mine) {
  std::string all;
  const auto texts = comm.all_gather_bytes(std::as_bytes(std::span(mine)));
  for (std::size_t rank = 0; rank < texts.size(); ++rank) {
    if (texts[rank].empty()) continue;
    all +=
        fmt::format("  rank {}: {}\n", rank,
                    std::string_view(reinterpret_cast<const char*>(texts[rank].data()), texts[rank].size()));
  }
  return all;
}

}  // namespace

void run_cases(const Communicator& comm, const ElasticBufferConfig& config, const CaseRange& range,
               const std::function<void(const CaseOutcome&)>& report) {
  Communicator results = comm;
  CaseRunner runner(comm, config);
  const int num_domains = ElasticBuffer(comm, config).get_physical_domain_size().num_scaleout_ranks;
  for (std::int64_t i = 0; i < range.num_cases; ++i) {
    CaseOutcome outcome{.case_idx = range.first + i * range.stride};
    const CaseSpec spec = draw_case(Random(range.seed, static_cast<std::uint64_t>(outcome.case_idx)).next(),
                                    comm.num_ranks(), num_domains);
    const auto finding = runner.run(spec, ExpectedResults(spec));
    outcome.failure = gather_findings(results, finding.value_or(""));
    outcome.passed = outcome.failure.empty();
    if (!outcome.passed) outcome.failure += fmt::format("  case: {}\n", spec.to_string());
    report(outcome);
  }
}

}  // namespace flexep::conformance
