// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "plan/plan_inputs.h"
#include "plan/variant.h"

namespace flexep::tool {

/// What `flexep bench` has measured of an operation.
struct Measurement {
  std::string op;  ///< dispatch, cached_dispatch, combine
  Variant variant;
  PlanInputs inputs;    ///< whose domains, where there are several, one machine plays
  int num_cores = 1;    ///< of the machine
  double least_us = 0;  ///< whatever else a machine does only adds to it

  /// "combine, compact, hybrid, 2x2 ranks, 512 tokens, hidden 7168, bf16, top-8 of 96": what is the same
  /// measured again.
  std::string name() const;
};

/// What in the files can calibrate: processes of one machine's processors, in one domain or playing several,
/// uniform routing, input in the arena. Measured several times, a case counts with the least of its times. In
/// the order of their names.
/// @throws UsageError that names --calibrate and a file that is not one of `flexep bench`.
std::vector<Measurement> read_measurements(const std::vector<std::string>& files);

}  // namespace flexep::tool
