// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace moe_lm {

/// Indices [begin, end) of something.
struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
};

/// Part `i` of `total` things that are cut into `num_parts` contiguous parts of nearly equal size.
inline Range share_of(std::int64_t total, std::int64_t i, std::int64_t num_parts) {
  return {.begin = total * i / num_parts, .end = total * (i + 1) / num_parts};
}

}  // namespace moe_lm
