// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>

namespace flexep::cuda {

/// Where one rank's kernels find the registered memory of all ranks. In pinned host memory, so that it can be
/// written at any time, whatever runs on the GPU.
class SegmentTable {
 public:
  /// Segments that a rank can have at a time.
  static constexpr int kMaxSegments = 64;

  explicit SegmentTable(int num_ranks);

  /// [R, kMaxSegments], null = none; see Peers::registered.
  std::byte* const* data() const { return reinterpret_cast<std::byte* const*>(memory_.get()); }
  /// From any thread. What a rank publishes afterwards finds it in the table.
  void set(int rank, int slot, std::byte* address) {
    auto* const entries = reinterpret_cast<std::byte**>(memory_.get());
    std::atomic_ref(entries[rank * kMaxSegments + slot]).store(address, std::memory_order_release);
  }

 private:
  std::shared_ptr<std::byte> memory_;
};

}  // namespace flexep::cuda
