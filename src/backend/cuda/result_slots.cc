// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/result_slots.h"

#include <new>

#include "backend/cuda/pinned_memory.h"
#include "common/math.h"

namespace flexep::cuda {
namespace {

/// Operations in flight; who wants more waits for the oldest.
constexpr std::size_t kNumSlots = 64;

}  // namespace

ResultSlots::ResultSlots(const ResultLayout& largest) {
  const std::size_t slot_bytes = align_up(largest.num_bytes(), std::size_t{128});
  memory_ = pin_memory(kNumSlots * slot_bytes);
  for (std::size_t i = 0; i < kNumSlots; ++i)
    free_.push_back(reinterpret_cast<OperationResult*>(memory_.get() + i * slot_bytes));
}

OperationResult* ResultSlots::take() {
  if (free_.empty()) return nullptr;
  OperationResult* const result = free_.back();
  free_.pop_back();
  return new (result) OperationResult();
}

}  // namespace flexep::cuda
