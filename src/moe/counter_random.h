// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

/// Random numbers that are pure functions of their position: fp64 and integer arithmetic without a library
/// function, so equal on every machine, and equal for any division of the positions over ranks.
namespace flexep::moe {

/// The finaliser of splitmix64: every input bit reaches every output bit.
inline std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

/// Uniform in [0, 1).
inline double unit_random(std::uint64_t key, std::uint64_t position) {
  return static_cast<double>(mix(key + position) >> 11) * 0x1.0p-53;
}

/// Mean 0, standard deviation 1, nearly normal: the sum of twelve uniform numbers.
inline double normal_random(std::uint64_t key, std::uint64_t position) {
  double sum = -6;
  for (std::uint64_t i = 0; i < 12; ++i) sum += unit_random(key, 12 * position + i);
  return sum;
}

}  // namespace flexep::moe
