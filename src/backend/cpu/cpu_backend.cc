// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/cpu_backend.h"

#include <algorithm>
#include <mutex>
#include <thread>

#include "flexep/env.h"
#include "kernels/cpu/cpu_target.h"

namespace flexep {

std::unique_ptr<Backend> make_cpu_backend() {
  // Once in a process, before its first kernel runs.
  static std::once_flag is_target_chosen;
  std::call_once(is_target_chosen, [] {
    if (const auto target = Environment::read().cpu_target) cpu::force_cpu_target(*target);
  });
  return std::make_unique<cpu::CpuBackend>();
}

namespace cpu {
namespace {

// About a core's share of the second and third cache.
constexpr std::size_t kStreamingThreshold = 4 << 20;

int num_cores() {
  static const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return cores;
}

}  // namespace

StoreMode choose_store_mode(std::size_t num_bytes) {
  return num_bytes < kStreamingThreshold ? StoreMode::kCached : StoreMode::kStreaming;
}

int CpuBackend::default_width(int num_local_ranks) const {
  return std::max(1, num_cores() / std::max(1, num_local_ranks));
}

// A width that was chosen for a GPU is no reason for more threads than there are cores.
ThreadPool& CpuBackend::pool(int width) {
  width = std::min(width, num_cores());
  if (!pool_ || pool_->num_threads() != width) {
    pool_.reset();
    pool_ = std::make_unique<ThreadPool>(width);
  }
  return *pool_;
}

}  // namespace cpu
}  // namespace flexep
