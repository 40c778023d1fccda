// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/cpu_backend.h"

#include <algorithm>
#include <thread>

namespace flexep {

std::unique_ptr<Backend> make_cpu_backend() {
  return std::make_unique<cpu::CpuBackend>();
}

namespace cpu {
namespace {

// About a core's share of the second and third cache.
constexpr std::size_t kStreamingThreshold = 4 << 20;

}  // namespace

StoreMode choose_store_mode(std::size_t num_bytes) {
  return num_bytes < kStreamingThreshold ? StoreMode::kCached : StoreMode::kStreaming;
}

int CpuBackend::default_width(int num_local_ranks) const {
  const auto num_cores = static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, num_cores / std::max(1, num_local_ranks));
}

ThreadPool& CpuBackend::pool(int width) {
  if (!pool_ || pool_->num_threads() != width) {
    pool_.reset();
    pool_ = std::make_unique<ThreadPool>(width);
  }
  return *pool_;
}

}  // namespace cpu
}  // namespace flexep
