// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

namespace moe_lm {

/// Random numbers as a pure function of a key and an index: no state, so that every rank draws the same
/// number for the same thing, whatever else it draws and however many ranks there are.
class RandomStream {
 public:
  /// @param name  what is drawn ("batch", the name of a parameter); streams with different names are
  /// independent.
  RandomStream(std::uint64_t seed, std::string_view name) : key_(mix(seed)) {
    for (const char c : name) key_ = mix(key_ ^ static_cast<unsigned char>(c));
  }

  std::uint64_t bits(std::uint64_t index) const { return mix(key_ + index); }
  /// Uniform in [0, 1).
  double uniform(std::uint64_t index) const { return static_cast<double>(bits(index) >> 11) * 0x1.0p-53; }

 private:
  /// One step of SplitMix64: a bijection that passes the usual tests on consecutive inputs.
  static constexpr std::uint64_t mix(std::uint64_t z) {
    z += 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }

  std::uint64_t key_;
};

}  // namespace moe_lm
