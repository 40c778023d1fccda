// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "bench/workload.h"
#include "flexep/tensor.h"

namespace flexep::tool {

/// What a program without flexep would do, done well: rows are sent once to each destination rank (not once
/// to each expert) by MPI_Alltoallv, and come back the same way to be summed. Its buffers and its plan are
/// made once, beforehand; packing and summing use flexep's kernels.
class AlltoallvBaseline {
 public:
  /// Whether this binary was built with MPI.
  static bool is_available();

  /// Starts MPI; the ranks of MPI are those of the job. Collective.
  AlltoallvBaseline(const BenchOptions& options, const Workload& workload, int rank, int num_threads);
  ~AlltoallvBaseline();

  /// Permutes the rows of `x` by destination rank, exchanges counts, then rows.
  void dispatch(const Tensor& x);
  /// Sends the rows that dispatch brought back, and sums each token's.
  void combine();

  /// [rows, hidden] in (source rank, source token) order, of the last dispatch.
  Tensor received() const;
  /// [T, hidden], of the last combine.
  Tensor combined() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace flexep::tool
