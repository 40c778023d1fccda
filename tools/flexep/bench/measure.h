// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/bench_operation.h"
#include "bench/gemm_beside.h"
#include "bench/timing.h"

namespace flexep::tool {

/// What one operation gave. Bytes are sums over ranks, of one operation.
struct BenchResult {
  std::string op;
  int num_domains = 1;
  int num_sms = 0;
  Times times;
  std::optional<Times> floor;
  std::optional<Times> barrier_and_copies;  ///< of an operation whose ranks meet in its middle
  std::optional<Times> baseline;
  std::optional<OperationCounters> bytes;
  std::optional<GemmBeside> gemm;  ///< if asked for
  bool verified = false;
};

/// Verifies each operation, times all of them, iteration by iteration side by side with their floors and
/// baselines, and verifies them again. The same results on every rank. A rank says on stderr what it found
/// wrong. Collective.
std::vector<BenchResult> measure(BenchRank& rank);

}  // namespace flexep::tool
