// SPDX-License-Identifier: Apache-2.0
#include "bench/copy_floor.h"
#include "errors.h"

namespace flexep::tool {

std::unique_ptr<Floor> make_copy_floor(const Workload&, const BenchOptions&, int, int) {
  throw NotAvailable("this build has no CUDA backend");
}

}  // namespace flexep::tool
