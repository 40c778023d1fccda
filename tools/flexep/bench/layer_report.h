// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "bench/layer_bench.h"

namespace flexep::tool {

/// Of the results of the same operation, that of alltoall, which others are compared with.
const LayerResult& alltoall_of(const std::vector<LayerResult>& results, const LayerResult& result);

/// A row of the results.
nlohmann::ordered_json json_of_layer(const BenchOptions& options, const LayerResult& result,
                                     const LayerResult& alltoall);

/// A line for each result.
void print_layer_table(const BenchOptions& options, const std::vector<LayerResult>& results);

}  // namespace flexep::tool
