// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace flexep::cuda {

/// Copies a weight bit for bit, or stores +0 where `from` is null.
__device__ inline void store_weight(std::byte* weights, std::int64_t index, std::size_t weight_bytes,
                                    const std::byte* from) {
  if (weight_bytes == 8) {
    reinterpret_cast<std::uint64_t*>(weights)[index] =
        from == nullptr ? 0 : *reinterpret_cast<const std::uint64_t*>(from);
  } else {
    reinterpret_cast<std::uint32_t*>(weights)[index] =
        from == nullptr ? 0 : *reinterpret_cast<const std::uint32_t*>(from);
  }
}

}  // namespace flexep::cuda
