// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace flexep::tool {

/// Draws distinct experts for tokens, one after the other, each in proportion to its weight among those that
/// the token does not have yet. The same numbers from the same seed on every machine.
class ExpertSampler {
 public:
  /// Expert e has weight 1 / (e + 1)^zipf_exponent.
  ExpertSampler(int num_experts, double zipf_exponent, std::uint64_t seed);

  /// Fills one token's ids. Cost: O(K log E).
  void draw(std::span<std::int64_t> ids);

 private:
  std::size_t draw_one();
  void set_weight(std::size_t expert, double weight);

  std::size_t num_leaves_;    ///< a power of two
  std::vector<double> sums_;  ///< [2 * num_leaves]: node i has the children 2 i and 2 i + 1, leaves are last
  std::vector<double> weights_;  ///< [E]
  std::mt19937_64 random_;
};

}  // namespace flexep::tool
