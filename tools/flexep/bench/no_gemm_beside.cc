// SPDX-License-Identifier: Apache-2.0
#include "bench/gemm_beside.h"
#include "errors.h"

namespace flexep::tool {

GemmBeside measure_gemm_beside(BenchRank&, BenchOperation&, double) {
  throw NotAvailable("this build has no CUDA backend");
}

}  // namespace flexep::tool
