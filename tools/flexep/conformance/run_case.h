// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "conformance/case_buffers.h"
#include "conformance/case_spec.h"
#include "conformance/expected_results.h"
#include "conformance/findings.h"
#include "conformance/placement.h"
#include "flexep/elastic_buffer.h"

namespace flexep::conformance {

/// Runs cases on one rank and holds its part against the reference.
///
/// All cases of a group use the same buffers: memory is used again and again, next to results that are kept
/// alive.
class CaseRunner {
 public:
  /// Collective. @param config  of its buffers, but for what cases decide.
  explicit CaseRunner(const Communicator& comm, const ElasticBufferConfig& config = {});

  /// Dispatch, cached dispatch and combine, from arena, registered and other memory. Collective.
  /// @return the first difference on this rank, or what the operation threw.
  /// @throws TimeoutError, TransportError: no further case can run on this group.
  std::optional<std::string> run(const CaseSpec& spec, const ExpectedResults& expected);

 private:
  /// A result that stays alive over later cases, and what it was.
  struct Kept {
    Tensor result;
    Tensor copy;
  };

  void run_operations(const CaseSpec& spec, const ExpectedResults& expected, Findings& findings);
  void check_kept(Findings& findings);
  void keep(const Tensor& result);

  int rank_;
  Placement placement_;
  CaseBuffers buffers_;
  std::vector<Kept> kept_;
  std::size_t num_runs_ = 0;
};

}  // namespace flexep::conformance
