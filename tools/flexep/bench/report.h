// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "bench/bench_options.h"
#include "bench/layer_bench.h"
#include "bench/measure.h"

namespace flexep::tool {

struct BenchResults {
  std::vector<BenchResult> operations;
  std::vector<LayerResult> layers;

  bool verified() const;
};

/// A line for each result.
void print_tables(const BenchOptions& options, const BenchResults& results);

/// Writes the results and what they were measured with to options.json_file, which is replaced as a whole or
/// not at all.
/// @param command  what was typed.
/// @throws UsageError when the file cannot be written.
void write_json(const BenchOptions& options, const BenchResults& results, const std::string& command);

}  // namespace flexep::tool
