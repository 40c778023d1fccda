// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "bench/memory_floor.h"

namespace flexep::tool {

/// On a GPU: a copy from device memory to device memory that reads and writes as many bytes as the operation
/// has to, by all ranks at a time. Where ranks are on several GPUs, copies between these run beside it, of
/// each row that has to cross once. Over PCIe where rows lie in host memory, or, across domains, go by way of
/// it. @throws NotAvailable in a build without CUDA.
std::unique_ptr<Floor> make_copy_floor(const Workload& workload, const BenchOptions& options, int rank,
                                       int num_domains);

}  // namespace flexep::tool
