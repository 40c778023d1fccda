// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "flexep/communicator.h"
#include "flexep/elastic_buffer.h"

namespace flexep::conformance {

/// Cases first, first + stride, ... of a seed; num_cases of them.
struct CaseRange {
  std::uint64_t seed = 1;
  std::int64_t first = 0;
  std::int64_t stride = 1;
  std::int64_t num_cases = 0;
};

/// How one case went on all ranks together.
struct CaseOutcome {
  std::int64_t case_idx = 0;
  bool passed = false;
  /// What failed where, and the case's shape. Empty when it passed.
  std::string failure;
};

/// Runs the cases on the ranks of `comm`, with buffers of `config`, and calls `report` on every rank
/// after each. Collective.
/// @throws TimeoutError, TransportError: the cases that were not reported did not run.
void run_cases(const Communicator& comm, const ElasticBufferConfig& config, const CaseRange& range,
               const std::function<void(const CaseOutcome&)>& report);

}  // namespace flexep::conformance
