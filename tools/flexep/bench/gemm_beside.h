// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "bench/bench_operation.h"

namespace flexep::tool {

/// What an operation costs computation that runs beside it, on multiprocessors of its own.
struct GemmBeside {
  int num_sms = 0;  ///< of the product: those that no rank's communication takes
  double alone_us = 0;
  double beside_us = 0;  ///< while all ranks run the operation again and again
  double tflops = 0;     ///< alone
  bool is_right = false;

  double slowdown() const { return beside_us / alone_us; }
};

/// Rank 0 multiplies two matrices, alone and while all ranks run `operation`, which takes `operation_us`,
/// without a pause. The same result on every rank. Collective. @throws NotAvailable in a build without CUDA.
GemmBeside measure_gemm_beside(BenchRank& rank, BenchOperation& operation, double operation_us);

}  // namespace flexep::tool
