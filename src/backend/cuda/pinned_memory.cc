// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/pinned_memory.h"

#include <cuda_runtime_api.h>

#include <map>
#include <mutex>

#include "backend/cuda/check_cuda.h"

namespace flexep::cuda {
namespace {

/// Pinned memory that nobody uses now, by its size.
struct IdleMemory {
  std::mutex mutex;
  std::multimap<std::size_t, std::byte*> pieces;
};

IdleMemory& idle_memory() {
  static IdleMemory memory;
  return memory;
}

}  // namespace

std::shared_ptr<std::byte> pin_memory(std::size_t num_bytes) {
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

}  // namespace flexep::cuda
