// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "plan/plan_inputs.h"

namespace flexep::tool {

/// The options of `flexep plan`, as typed.
struct PlanOptions {
  std::string topology = "1x8";
  int num_experts = 256;
  int num_topk = 8;
  std::int64_t num_tokens = 4096;
  std::int64_t hidden = 7168;
  std::string dtype = "bf16";
  int expert_alignment = 1;
  std::string skew = "uniform";
  std::uint64_t seed = 1;
  double link_gbs = 450;
  double net_gbs = 50;
  double memory_gbs = 3000;
  double link_us = 2;
  double net_us = 5;
  double message_us = 0.5;
  double chunk_mib = 1;
  std::string machine_file;  ///< of a calibration
  bool simulate = false;
  int max_ranks = 2048;
  std::vector<std::string> calibrate;
  std::string json_file;

  bool prints_json() const { return json_file == "-"; }
};

/// What they mean. @throws UsageError that names the option and its value.
PlanInputs resolve(const PlanOptions& options);

}  // namespace flexep::tool
