// SPDX-License-Identifier: Apache-2.0
//
// Built when MPI is not found.
#include "bench/alltoallv_baseline.h"
#include "errors.h"

namespace flexep::tool {

class AlltoallvBaseline::Impl {};

bool AlltoallvBaseline::is_available() {
  return false;
}

AlltoallvBaseline::AlltoallvBaseline(const BenchOptions&, const Workload&, int, int) {
  throw NotAvailable("this binary was built without MPI");
}
AlltoallvBaseline::~AlltoallvBaseline() = default;

void AlltoallvBaseline::dispatch(const Tensor&) {}
void AlltoallvBaseline::combine() {}
Tensor AlltoallvBaseline::received() const {
  return {};
}
Tensor AlltoallvBaseline::combined() const {
  return {};
}

}  // namespace flexep::tool
