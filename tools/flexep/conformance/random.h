// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>

namespace flexep::conformance {

/// Random numbers that are the same on every machine: splitmix64. (The distributions of <random> are not.)
class Random {
 public:
  /// A stream of numbers for each pair of seed and `stream`.
  explicit Random(std::uint64_t seed, std::uint64_t stream = 0) : state_(mix(seed) ^ mix(~stream)) {}

  std::uint64_t next() { return mix(state_ += 0x9E3779B97F4A7C15u); }
  /// Uniform in [low, high].
  int in_range(int low, int high) {
    return low + static_cast<int>(next() % (static_cast<std::uint64_t>(high - low) + 1));
  }
  /// True once in `n` times.
  bool one_in(int n) { return in_range(1, n) == 1; }
  /// Uniform in [0, 1).
  double fraction() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
  template <typename T>
  T one_of(std::initializer_list<T> choices) {
    return choices.begin()[in_range(0, static_cast<int>(choices.size()) - 1)];
  }

 private:
  static std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  std::uint64_t state_;
};

}  // namespace flexep::conformance
