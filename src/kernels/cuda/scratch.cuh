// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/math.h"

namespace flexep::cuda {

/// Memory for the arrays of a block: shared memory while there is room, then the block's part of the
/// workspace. So thousands of ranks or experts need no other code; they only take longer.
class Scratch {
 public:
  static constexpr std::size_t kAlignment = 16;

  __device__ Scratch(std::byte* shared, std::size_t shared_bytes, std::byte* global)
      : shared_(shared), shared_left_(shared_bytes), global_(global) {}

  /// An array that all threads of the block see; the same calls in the same order in each.
  template <typename T>
  __device__ T* take(int count) {
    const std::size_t num_bytes = bytes_of<T>(count);
    if (num_bytes > shared_left_) {
      std::byte* array = global_;
      global_ += num_bytes;
      return reinterpret_cast<T*>(array);
    }
    std::byte* array = shared_;
    shared_ += num_bytes;
    shared_left_ -= num_bytes;
    return reinterpret_cast<T*>(array);
  }

  template <typename T>
  static constexpr std::size_t bytes_of(int count) {
    return align_up(static_cast<std::size_t>(count) * sizeof(T), kAlignment);
  }

 private:
  std::byte* shared_;
  std::size_t shared_left_;
  std::byte* global_;
};

}  // namespace flexep::cuda
