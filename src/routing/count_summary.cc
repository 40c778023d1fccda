// SPDX-License-Identifier: Apache-2.0
#include "routing/count_summary.h"

namespace flexep {
namespace {

// Pieces of a fixed length, which compilers turn into vectors at every level of optimisation.
constexpr std::size_t kPiece = 16;

void add_to(std::span<std::int64_t> sums, AllCounts blocks) {
  for (const auto block : blocks) {
    std::size_t i = 0;
    for (; i + kPiece <= sums.size(); i += kPiece) {
      const std::int32_t* values = &block[i];
      std::int64_t* piece = &sums[i];
      for (std::size_t j = 0; j < kPiece; ++j) piece[j] += values[j];
    }
    for (; i < sums.size(); ++i) sums[i] += block[i];
  }
}

}  // namespace

CountSummary summarise_counts(AllCounts counts, int rank) {
  const auto own_rank = static_cast<std::size_t>(rank);
  const auto own = counts[own_rank];
  CountSummary summary;
  summary.own.assign(own.begin(), own.end());
  summary.before.resize(own.size());
  add_to(summary.before, counts.first(own_rank));
  summary.total = summary.before;
  add_to(summary.total, counts.subspan(own_rank));
  summary.received.reserve(counts.size());
  for (const auto source : counts) summary.received.push_back(source[own_rank]);
  return summary;
}

}  // namespace flexep
