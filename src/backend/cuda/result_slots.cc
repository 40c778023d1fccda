// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/result_slots.h"

#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <new>

#include "backend/cuda/check_cuda.h"
#include "common/math.h"

namespace flexep::cuda {
namespace {

/// Operations in flight; who wants more waits for the oldest.
constexpr std::size_t kNumSlots = 64;

/// Pinned memory that no buffer uses now, by its size.
struct IdleMemory {
  std::mutex mutex;
  std::multimap<std::size_t, std::byte*> pieces;
};

IdleMemory& idle_memory() {
  static IdleMemory memory;
  return memory;
}

std::shared_ptr<std::byte> pin(std::size_t num_bytes) {
  std::byte* memory = nullptr;
  IdleMemory& idle = idle_memory();
  const std::lock_guard lock(idle.mutex);
  if (const auto found = idle.pieces.lower_bound(num_bytes); found != idle.pieces.end()) {
    num_bytes = found->first;
    memory = found->second;
    idle.pieces.erase(found);
  } else {
    void* pinned = nullptr;
    check(cudaHostAlloc(&pinned, num_bytes, cudaHostAllocPortable | cudaHostAllocMapped), "pin host memory");
    memory = static_cast<std::byte*>(pinned);
  }
  return {memory, [num_bytes](std::byte* given_back) {
            IdleMemory& pool = idle_memory();
            const std::lock_guard pool_lock(pool.mutex);
            pool.pieces.emplace(num_bytes, given_back);
          }};
}

}  // namespace

ResultSlots::ResultSlots(const ResultLayout& largest) {
  const std::size_t slot_bytes = align_up(largest.num_bytes(), std::size_t{128});
  memory_ = pin(kNumSlots * slot_bytes);
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
