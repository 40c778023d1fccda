// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "backend/backend.h"
#include "common/thread_pool.h"
#include "kernels/cpu/store_mode.h"

namespace flexep::cpu {

/// Kernels on this process's cores. Phases live in push.cc, pull.cc and local.cc.
class CpuBackend final : public Backend {
 public:
  int default_width(int num_local_ranks) const override;
  void push(const PushJob& job, int width) override;
  void zero_gaps(const ZeroGapsJob& job, int width) override;
  void pull(const PullJob& job, int width) override;
  void pull_weights(const PullJob& job, int width) override;
  void reduce_tokens(const ReduceTokensJob& job, int width) override;
  void copy(std::byte* to, const std::byte* from, std::size_t num_bytes, int width) override;

 private:
  /// Threads, kept for as long as operations ask for the same width.
  ThreadPool& pool(int width);

  std::unique_ptr<ThreadPool> pool_;
};

/// Tokens that a thread handles at a time: enough that a loop over them costs nothing beside their rows, few
/// enough that their pointers stay in the first cache and threads finish together.
inline constexpr std::int64_t kTokensPerPiece = 32;

/// Runs body(begin, end) over pieces of [0, num_tokens).
template <typename Body>
void for_pieces(ThreadPool& pool, int num_tokens, Body body) {
  pool.parallel_for(num_tokens, kTokensPerPiece, [&](std::int64_t begin, std::int64_t end) {
    for (; begin < end; begin += kTokensPerPiece) {
      body(static_cast<int>(begin), static_cast<int>(std::min(begin + kTokensPerPiece, end)));
    }
  });
}

/// How to store `num_bytes` that one operation writes: small data is wanted in a cache by whoever reads it
/// next; large data would only push others out, and ordinary stores would read it first.
StoreMode choose_store_mode(std::size_t num_bytes);

}  // namespace flexep::cpu
