// SPDX-License-Identifier: Apache-2.0
#include "cuda_engine/captured_reports.h"

#include <atomic>

namespace flexep::cuda {

Reports CapturedReports::reports_of(const OperationName& operation, const ResultLayout& layout) {
  captured_.push_back({operation, layout});
  return {.result = result_,
          .first_failure = first_failure_,
          .tag = static_cast<std::int32_t>(captured_.size()) - 1,
          .layout = layout};
}

std::exception_ptr CapturedReports::take_failure() {
  // Pairs with the kernels' publication: a failure is written once it is whole, and none over it.
  const std::atomic_ref<std::uint64_t> ready(first_failure_->ready);
  const std::uint64_t number = ready.load(std::memory_order_acquire);
  if (number == 0) return nullptr;
  Captured failed = captured_[static_cast<std::size_t>(first_failure_->tag)];
  failed.operation.sequence_number = number;  // each replay is an operation of its own
  std::exception_ptr error = error_of_verdict(failed.operation, *first_failure_, failed.layout);
  if (!error) error = error_of_outcome(failed.operation, *first_failure_, failed.layout.num_ranks);
  ready.store(0, std::memory_order_release);
  return error;
}

}  // namespace flexep::cuda
