// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <string_view>

#include "kernels/cuda/operation_result.h"

namespace flexep::cuda {

/// An operation, as errors name it.
struct OperationName {
  std::string_view name;
  std::uint64_t sequence_number = 0;
  int rank = 0;
  int num_experts = 0;
};

/// What ranks must do alike; the first word of a fingerprint. The others are core's Field, in its order.
enum class OperationKind : std::int64_t { kNone, kDispatch, kCombine, kBarrier };

/// The error that CPU and GPU have for this verdict; null for kGo. kDoesNotFit is not an error of its own.
std::exception_ptr error_of_verdict(const OperationName& operation, const OperationResult& result,
                                    const ResultLayout& layout);

/// The error of an operation that has completed with kGo; null when it went well.
std::exception_ptr error_of_outcome(const OperationName& operation, const OperationResult& result,
                                    int num_ranks);

}  // namespace flexep::cuda
