// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "kernels/cuda/operation_result.h"

namespace flexep::cuda {

/// Pinned host memory for the results of operations. One user at a time.
class ResultSlots {
 public:
  /// @param largest  the layout of the largest result. @throws OutOfMemory.
  explicit ResultSlots(const ResultLayout& largest);

  /// A result with its head zeroed, to be given back when its operation has completed; null when all are out.
  OperationResult* take();
  void give_back(OperationResult* result) { free_.push_back(result); }

 private:
  std::shared_ptr<std::byte> memory_;
  std::vector<OperationResult*> free_;
};

}  // namespace flexep::cuda
