// SPDX-License-Identifier: Apache-2.0
#include "moe/permutation.h"

#include <algorithm>
#include <numeric>

#include "common/check.h"
#include "moe/rows.h"

namespace flexep::moe {
namespace {

constexpr std::int32_t kPadding = -1;

// What a permutation is made from, while it grows.
struct Pairs {
  std::vector<std::int32_t> sources, experts;

  void append(std::int64_t source, std::int64_t expert) {
    sources.push_back(static_cast<std::int32_t>(source));
    experts.push_back(static_cast<std::int32_t>(expert));
  }
  std::int64_t size() const { return static_cast<std::int64_t>(sources.size()); }
};

bool is_routed(const Tensor& map, std::int64_t row, std::int64_t expert) {
  return map.data<std::int32_t>()[row * map.size(1) + expert] != 0;
}

std::vector<std::int32_t> count_rows_per_expert(const Tensor& map) {
  std::vector<std::int32_t> counts(static_cast<std::size_t>(map.size(1)));
  for (std::int64_t row = 0; row < map.size(0); ++row) {
    const auto entries = row_of<std::int32_t>(map, row);
    for (std::size_t e = 0; e < counts.size(); ++e) counts[e] += entries[e] != 0 ? 1 : 0;
  }
  return counts;
}

std::int32_t align_up(std::int32_t count, int align_size) {
  return align_size > 1 ? (count + align_size - 1) / align_size * align_size : count;
}

// Reads the map row by row, as it lies, and puts each pair at its expert's next place.
Pairs place_pairs(const Tensor& map, const Permutation& permutation) {
  std::vector<std::size_t> next(permutation.tokens_per_expert.size());
  std::exclusive_scan(permutation.tokens_per_expert.begin(), permutation.tokens_per_expert.end(),
                      next.begin(), std::size_t{0});
  Pairs pairs;
  for (std::size_t e = 0; e < next.size(); ++e)
    pairs.experts.insert(pairs.experts.end(), static_cast<std::size_t>(permutation.tokens_per_expert[e]),
                         static_cast<std::int32_t>(e));
  pairs.sources.assign(pairs.experts.size(), kPadding);
  for (std::int64_t row = 0; row < map.size(0); ++row) {
    const auto entries = row_of<std::int32_t>(map, row);
    for (std::size_t e = 0; e < next.size(); ++e)
      if (entries[e] != 0) pairs.sources[next[e]++] = static_cast<std::int32_t>(row);
  }
  return pairs;
}

void append_unrouted(const Tensor& map, std::int64_t num_out_tokens, Pairs& pairs) {
  for (std::int64_t expert = 0; expert < map.size(1); ++expert)
    for (std::int64_t row = 0; row < map.size(0) && pairs.size() < num_out_tokens; ++row)
      if (!is_routed(map, row, expert)) pairs.append(row, expert);
}

// Leaves out the last pairs, and takes them from their experts' counts.
void truncate(std::int64_t num_out_tokens, Pairs& pairs, std::vector<std::int32_t>& tokens_per_expert) {
  while (pairs.size() > num_out_tokens) {
    --tokens_per_expert[static_cast<std::size_t>(pairs.experts.back())];
    pairs.sources.pop_back();
    pairs.experts.pop_back();
  }
}

Pairs drop_and_pad(const Tensor& map, std::int64_t capacity, std::vector<std::int32_t>& tokens_per_expert) {
  Pairs pairs;
  for (std::int64_t expert = 0; expert < map.size(1); ++expert) {
    const std::int64_t begin = pairs.size();
    for (const bool routed : {true, false})
      for (std::int64_t row = 0; row < map.size(0) && pairs.size() - begin < capacity; ++row)
        if (is_routed(map, row, expert) == routed) pairs.append(row, expert);
    tokens_per_expert.push_back(static_cast<std::int32_t>(pairs.size() - begin));
  }
  return pairs;
}

Pairs make_pairs(const Tensor& map, const PermuteOptions& options, Permutation& permutation) {
  const auto num_out_tokens = options.num_out_tokens;
  if (options.drop_and_pad)
    return drop_and_pad(map, num_out_tokens.value_or(0) / std::max<std::int64_t>(1, map.size(1)),
                        permutation.tokens_per_expert);
  const auto counts = count_rows_per_expert(map);
  std::int32_t num_pad_rows = 0;
  for (const std::int32_t count : counts) {
    permutation.tokens_per_expert.push_back(align_up(count, options.align_size));
    if (options.align_size > 1) permutation.pad_offsets.push_back(num_pad_rows);
    num_pad_rows += permutation.tokens_per_expert.back() - count;
  }
  Pairs pairs = place_pairs(map, permutation);
  if (num_out_tokens) {
    append_unrouted(map, *num_out_tokens, pairs);
    truncate(*num_out_tokens, pairs, permutation.tokens_per_expert);
  }
  return pairs;
}

void check_options(const PermuteOptions& options) {
  require_argument(options.num_out_tokens.value_or(0) >= 0, "num_out_tokens",
                   "num_out_tokens must be at least 0, not {}", options.num_out_tokens.value_or(0));
  require_argument(!options.drop_and_pad || options.num_out_tokens, "num_out_tokens",
                   "drop_and_pad needs num_out_tokens");
  require_argument(options.align_size >= 0, "align_size", "align_size must be at least 0, not {}",
                   options.align_size);
  require_argument(options.align_size <= 1 || !options.num_out_tokens, "align_size",
                   "align_size and num_out_tokens exclude each other");
}

}  // namespace

Permutation make_permutation(const Tensor& routing_map, const PermuteOptions& options) {
  check_options(options);
  Permutation permutation{.num_rows = routing_map.size(0)};
  const Pairs pairs = make_pairs(routing_map, options, permutation);
  permutation.sorted_indices = Tensor::from_values<std::int32_t>(pairs.sources, {pairs.size()});
  permutation.sorted_experts = Tensor::from_values<std::int32_t>(pairs.experts, {pairs.size()});
  return permutation;
}

CopiesOfRows::CopiesOfRows(const Permutation& permutation)
    : begins_(static_cast<std::size_t>(permutation.num_rows) + 1) {
  const auto sources = permutation.sorted_indices.values<std::int32_t>();
  for (const std::int32_t source : sources)
    if (source != kPadding) ++begins_[static_cast<std::size_t>(source) + 1];
  std::partial_sum(begins_.begin(), begins_.end(), begins_.begin());
  copies_.resize(begins_.back());
  std::vector<std::size_t> next(begins_.begin(), begins_.end() - 1);
  for (std::size_t i = 0; i < sources.size(); ++i)
    if (sources[i] != kPadding)
      copies_[next[static_cast<std::size_t>(sources[i])]++] = static_cast<std::int32_t>(i);
}

}  // namespace flexep::moe
