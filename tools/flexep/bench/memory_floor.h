// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "bench/workload.h"
#include "common/thread_pool.h"
#include "flexep/types.h"
#include "kernels/cpu/store_mode.h"
#include "transport/transport.h"

namespace flexep::tool {

/// How a plain loop stores `num_bytes` at its best: around the caches, but for data that a cache holds.
cpu::StoreMode best_store_mode(std::size_t num_bytes);

/// What the machine needs for the bytes of a dispatch or combine alone. Both are collective.
class Floor {
 public:
  virtual ~Floor() = default;
  virtual void dispatch(const std::byte* x, const std::byte* sf) = 0;
  virtual void combine() = 0;
};

/// On the CPU: loops over pointers that are known
/// beforehand, on memory of the same kind as an arena, to and from the same places, with as many threads. No
/// routing, no exchange. The rows are moved by flexep's kernels, which are as fast as loops for the one case
/// written by hand (docs/performance.md).
class MemoryFloor final : public Floor {
 public:
  /// Makes a region for the rows that this rank receives and one for its sums, and maps everybody's.
  /// Collective.
  MemoryFloor(Transport& transport, const Workload& workload, const BenchOptions& options, int num_threads);

  /// Reads every row of `x` once, and its scaling factors if there are any, and stores it at its places.
  void dispatch(const std::byte* x, const std::byte* sf) override;
  /// Reads every row of a token where dispatch puts it, sums in fp32 and writes the sum once.
  void combine() override;

 private:
  void find_places(Transport& transport, const Workload& workload, const Segment& received);
  void scatter(const std::byte* rows, std::size_t row_bytes, const std::vector<std::byte*>& places);

  DType dtype_;
  std::size_t num_columns_;
  std::size_t row_bytes_;
  std::size_t sf_bytes_;                              ///< scaling factors of a row
  std::vector<std::shared_ptr<std::byte>> received_;  ///< by rank
  Segment sums_;
  std::vector<std::int64_t> place_begin_{0};  ///< [T + 1], where a token's places begin
  std::vector<std::byte*> places_;
  std::vector<std::byte*> sf_places_;        ///< the same for scaling factors, behind all rows of a rank
  std::vector<std::int64_t> sum_begin_{0};   ///< [T + 1], number of tokens before this one that have a place
  std::vector<std::int64_t> term_begin_{0};  ///< one for each token that has a place, and the end
  ThreadPool pool_;
};

}  // namespace flexep::tool
