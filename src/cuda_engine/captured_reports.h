// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <vector>

#include "cuda_engine/verdict_errors.h"
#include "kernels/cuda/operation_result.h"

namespace flexep::cuda {

/// Where the captured operations of a buffer report, whenever the program replays them. They run one after
/// the other: they share a result, which nobody reads, and the place of their first failure. One user at a
/// time.
class CapturedReports {
 public:
  /// Both zeroed and pinned, of the largest layout.
  CapturedReports(OperationResult* result, OperationResult* first_failure)
      : result_(result), first_failure_(first_failure) {}

  Reports reports_of(const OperationName& operation, const ResultLayout& layout);
  /// The first failure of a replay since the last call; null when all went well.
  std::exception_ptr take_failure();

 private:
  struct Captured {
    OperationName operation;
    ResultLayout layout;
  };

  OperationResult* result_;
  OperationResult* first_failure_;
  std::vector<Captured> captured_;  ///< by Reports::tag
};

}  // namespace flexep::cuda
