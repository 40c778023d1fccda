// SPDX-License-Identifier: Apache-2.0
#include "moe/expert_permutation.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "common/check.h"

namespace flexep::moe {
namespace {

// out[t, i] = columns[t, sources[i]].
Tensor take_columns(const Tensor& columns, std::span<const int> sources) {
  Tensor out = Tensor::empty(columns.shape(), columns.dtype());
  const std::size_t size = size_of(columns.dtype()), row_bytes = size * sources.size();
  const auto* from = static_cast<const std::byte*>(columns.data());
  auto* to = static_cast<std::byte*>(out.data());
  for (std::int64_t t = 0; t < columns.size(0); ++t, from += row_bytes) {
    for (const int source : sources) {
      std::memcpy(to, from + static_cast<std::size_t>(source) * size, size);
      to += size;
    }
  }
  return out;
}

}  // namespace

void check_expert_permutation(std::span<const int> permutation, int num_experts) {
  std::vector<int> expected(static_cast<std::size_t>(permutation.empty() ? 0 : num_experts));
  std::iota(expected.begin(), expected.end(), 0);
  require_argument(
      std::is_permutation(permutation.begin(), permutation.end(), expected.begin(), expected.end()),
      "expert_permutation", "expert_permutation must be a permutation of 0 .. {}, not [{}]", num_experts - 1,
      fmt::join(permutation, ", "));
}

Tensor permute_experts(const Tensor& columns, std::span<const int> permutation) {
  if (permutation.empty()) return columns;
  std::vector<int> inverse(permutation.size());
  for (std::size_t e = 0; e < permutation.size(); ++e)
    inverse[static_cast<std::size_t>(permutation[e])] = static_cast<int>(e);
  return take_columns(columns, inverse);
}

Tensor unpermute_experts(const Tensor& columns, std::span<const int> permutation) {
  return permutation.empty() ? columns : take_columns(columns, permutation);
}

}  // namespace flexep::moe
