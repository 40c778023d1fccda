// SPDX-License-Identifier: Apache-2.0
#include "bench/graphed_operation.h"
#include "errors.h"

namespace flexep::tool {

std::unique_ptr<BenchOperation> make_graphed_operation(std::unique_ptr<BenchOperation>, int) {
  throw NotAvailable("this build has no CUDA backend");
}

}  // namespace flexep::tool
