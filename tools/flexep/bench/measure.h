// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/bench_operation.h"

namespace flexep::tool {

/// Times of one thing, microseconds; for each iteration that of the slowest rank.
struct Times {
  double median_us = 0;
  double p99_us = 0;
  double min_us = 0;
  double cpu_us = 0;  ///< median of what the ranks' calling threads were busy, per rank
};

/// What one operation gave. Bytes are sums over ranks, of one operation.
struct BenchResult {
  std::string op;
  int num_sms = 0;
  Times times;
  std::optional<Times> floor;
  std::optional<Times> baseline;
  std::optional<OperationCounters> bytes;
  bool verified = false;
};

/// Verifies each operation, times all of them, iteration by iteration side by side with their floors and
/// baselines, and verifies them again. The same results on every rank. A rank says on stderr what it found
/// wrong. Collective.
std::vector<BenchResult> measure(BenchRank& rank);

}  // namespace flexep::tool
