// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "bench/bench_operation.h"

namespace flexep::tool {

/// `num_operations` of them, captured into a CUDA graph, which is what a run launches. The output is that of
/// the last one. @throws NotAvailable in a build without CUDA.
std::unique_ptr<BenchOperation> make_graphed_operation(std::unique_ptr<BenchOperation> operation,
                                                       int num_operations);

}  // namespace flexep::tool
