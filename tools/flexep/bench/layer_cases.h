// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "bench/bench_options.h"
#include "flexep/moe/moe_config.h"

namespace flexep::tool {

/// One way to move the tokens of the layer that the options describe.
struct LayerCase {
  std::string name;
  moe::MoeConfig config;
};

/// Alltoall first, then allgather, then the flex backends. With a shared expert, last the fused deepepv2 with
/// its overlap.
std::vector<LayerCase> layer_cases(const BenchOptions& options);

}  // namespace flexep::tool
