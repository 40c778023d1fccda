// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "bench/bench_options.h"
#include "bench/measure.h"

namespace flexep::tool {

/// A line for each result.
void print_table(const BenchOptions& options, const std::vector<BenchResult>& results);

/// Writes the results and what they were measured with to options.json_file, which is replaced as a whole or
/// not at all.
/// @param command  what was typed.
/// @throws std::runtime_error when the file cannot be written.
void write_json(const BenchOptions& options, const std::vector<BenchResult>& results,
                const std::string& command);

}  // namespace flexep::tool
