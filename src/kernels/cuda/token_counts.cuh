// SPDX-License-Identifier: Apache-2.0
//
// From ids to counts and slots, without atomics on counters: a warp takes 32 tokens, a lane each, and marks
// them in one bit mask for each rank and expert. Population counts of the masks are counts; of the lower
// lanes, slots. So the order is that of the tokens, whatever the timing.
#pragma once

#include "kernels/cuda/operation.cuh"
#include "kernels/cuda/plan_layout.h"

namespace flexep::cuda {

/// The ids of this rank. Counts have a column for each rank, then one for each expert, as RoutingCounts.
struct TopkIdx {
  const void* ids;        ///< [T, K]
  std::size_t idx_bytes;  ///< 4 or 8
  int num_topk;
  int num_ranks;
  int num_experts;
  int num_local_experts;

  __device__ std::int64_t at(std::int64_t pair) const {
    return idx_bytes == 8 ? static_cast<const std::int64_t*>(ids)[pair]
                          : static_cast<const std::int32_t*>(ids)[pair];
  }
  __device__ std::int64_t first_pair(int token) const { return static_cast<std::int64_t>(token) * num_topk; }
  __device__ bool is_valid(std::int64_t id) const { return id >= 0 && id < num_experts; }
  __device__ int owner_of(std::int64_t id) const { return static_cast<int>(id) / num_local_experts; }
  __device__ int column_of_expert(std::int64_t id) const { return num_ranks + static_cast<int>(id); }
  __device__ int num_columns() const { return num_ranks + num_experts; }
};

/// Tokens [begin, end) of one block: every block takes a contiguous part of them.
struct TokenRange {
  int begin;
  int end;
};

__device__ inline TokenRange tokens_of_block(int num_tokens, int block) {
  const auto total = static_cast<std::int64_t>(num_tokens);
  return {static_cast<int>(total * block / num_blocks()),
          static_cast<int>(total * (block + 1) / num_blocks())};
}

/// The bit masks of a block in shared memory. Where there are more columns than fit, they are handled in
/// strips, one after the other; where there are many, fewer warps work at a time.
struct Masks {
  std::uint32_t* words;  ///< [num_warps, num_columns]: bit l of [w, c]: the token of lane l goes to column c
  std::int32_t* num_before;  ///< [num_warps, num_columns]: tokens before those of the warp
  int num_columns;           ///< of a strip
  int num_warps;             ///< that have masks

  __device__ Masks(std::byte* memory, std::size_t num_bytes, int total_columns) {
    const int room = static_cast<int>(num_bytes / sizeof(std::uint32_t) / 2);  // words for either array
    num_columns = min(total_columns, room);
    num_warps = min(kNumWarps, room / num_columns);
    words = reinterpret_cast<std::uint32_t*>(memory);
    num_before = reinterpret_cast<std::int32_t*>(words + static_cast<std::size_t>(num_warps) * num_columns);
  }

  /// Whether one round takes all of the tokens.
  __device__ bool hold_all(const TopkIdx& topk_idx, const TokenRange& tokens) const {
    return topk_idx.num_columns() <= num_columns && tokens.end - tokens.begin <= num_warps * kWarpSize;
  }
};

/// Columns [first, last) of one pass.
struct Strip {
  int first;
  int last;
  __device__ bool holds(int column) const { return column >= first && column < last; }
};

constexpr unsigned long long kNoBadPair = ~0ull;

/// Marks one token; `bad` becomes its first pair that cannot be sent, if that is smaller.
__device__ inline void mark_token(const TopkIdx& topk_idx, int token, const Strip& strip, std::uint32_t* mask,
                                  unsigned long long& bad) {
  const std::uint32_t bit = 1u << lane_in_warp();
  const std::int64_t first = topk_idx.first_pair(token);
  for (int k = 0; k < topk_idx.num_topk; ++k) {
    const std::int64_t id = topk_idx.at(first + k);
    if (id == -1) continue;
    bool is_bad = !topk_idx.is_valid(id);
    if (!is_bad) {
      const int column = topk_idx.column_of_expert(id);
      const int owner = topk_idx.owner_of(id);
      if (strip.holds(column)) is_bad = (atomicOr(&mask[column - strip.first], bit) & bit) != 0;
      if (strip.holds(owner)) atomicOr(&mask[owner - strip.first], bit);
    }
    if (is_bad) bad = min(bad, static_cast<unsigned long long>(first + k));
  }
}

/// Calls round(strip, token of this lane or -1, whether it is the first of its strip) after the masks of a
/// round are complete, for all strips and for all rounds of the block's tokens. Collective over the block.
/// `bad` as mark_token().
/// @param are_marked  whether the masks hold the marks already: the same tokens before, all in one round.
template <typename Round>
__device__ void for_each_round(const TopkIdx& topk_idx, const TokenRange& tokens, const Masks& masks,
                               bool are_marked, unsigned long long& bad, Round round) {
  const int total_columns = topk_idx.num_columns();
  const int tokens_per_round = masks.num_warps * kWarpSize;
  const int warp = warp_in_block();
  for (int first = 0; first < total_columns; first += masks.num_columns) {
    const Strip strip{first, min(first + masks.num_columns, total_columns)};
    for (int begin = tokens.begin; begin < tokens.end; begin += tokens_per_round) {
      const int candidate = begin + thread_in_block();
      const int token = warp < masks.num_warps && candidate < tokens.end ? candidate : -1;
      if (warp < masks.num_warps && !are_marked) {
        std::uint32_t* mask = masks.words + static_cast<std::size_t>(warp) * masks.num_columns;
        for (int c = lane_in_warp(); c < masks.num_columns; c += kWarpSize) mask[c] = 0;
        __syncwarp();
        if (token >= 0) mark_token(topk_idx, token, strip, mask, bad);
      }
      __syncthreads();
      round(strip, token, begin == tokens.begin);
      __syncthreads();
    }
  }
}

/// Counts the block's tokens. @param counts  [R + E], written. @return the first pair that cannot be sent, or
/// kNoBadPair; of this thread's tokens.
__device__ inline unsigned long long count_tokens(const TopkIdx& topk_idx, const TokenRange& tokens,
                                                  const Masks& masks, std::int32_t* counts) {
  if (tokens.begin == tokens.end) {
    for (int c = thread_in_block(); c < topk_idx.num_columns(); c += kNumThreads) counts[c] = 0;
  }
  unsigned long long bad = kNoBadPair;
  for_each_round(topk_idx, tokens, masks, false, bad, [&](const Strip& strip, int, bool is_first) {
    for (int c = thread_in_block(); c < strip.last - strip.first; c += kNumThreads) {
      int count = 0;
      for (int w = 0; w < masks.num_warps; ++w) count += __popc(masks.words[w * masks.num_columns + c]);
      counts[strip.first + c] = is_first ? count : counts[strip.first + c] + count;
    }
  });
  return bad;
}

/// Weights, as bits.
struct TopkWeights {
  const std::byte* weights;  ///< [T, K]
  std::size_t weight_bytes;  ///< 4 or 8

  /// As double. On integers: a conversion of the GPU may lose the sign of NaN.
  __device__ std::uint64_t bits_of_bad(std::int64_t pair) const {
    if (weight_bytes == 8) return reinterpret_cast<const std::uint64_t*>(weights)[pair];
    const std::uint64_t bits = reinterpret_cast<const std::uint32_t*>(weights)[pair];
    return (bits >> 31) << 63 | std::uint64_t{0x7FF} << 52 | (bits & 0x7FFFFF) << 29;
  }
  __device__ bool is_finite(std::int64_t pair) const {
    if (weight_bytes == 8)
      return (reinterpret_cast<const std::uint64_t*>(weights)[pair] >> 52 & 0x7FF) != 0x7FF;
    return (reinterpret_cast<const std::uint32_t*>(weights)[pair] >> 23 & 0xFF) != 0xFF;
  }
};

/// Marks a bad pair whose id is good: pairs whose ids are bad come first.
constexpr unsigned long long kBadWeight = 1ull << 62;

/// @return the first routed pair whose weight is not finite, with kBadWeight, or kNoBadPair; of this thread's
/// pairs.
__device__ inline unsigned long long find_bad_weight(const TopkIdx& topk_idx, const TokenRange& tokens,
                                                     const TopkWeights& weights) {
  const std::int64_t end = topk_idx.first_pair(tokens.end);
  for (std::int64_t pair = topk_idx.first_pair(tokens.begin) + thread_in_block(); pair < end;
       pair += kNumThreads) {
    if (topk_idx.at(pair) >= 0 && !weights.is_finite(pair))
      return kBadWeight | static_cast<unsigned long long>(pair);
  }
  return kNoBadPair;
}

/// Where the pairs of a block's tokens go; see PlanLayout for the arrays.
struct PairPlaces {
  std::int32_t* owners;
  std::int32_t* token_slots;
  std::int32_t* rows;  ///< null in the compact layout
};

/// The places of a token's pairs in the columns of a strip: those before its warp's, and those of the lanes
/// below.
__device__ inline void place_pairs(const TopkIdx& topk_idx, int token, const Strip& strip,
                                   const std::uint32_t* mask, const std::int32_t* num_before,
                                   const PairPlaces& places) {
  const std::uint32_t lower_lanes = (1u << lane_in_warp()) - 1;
  const auto place_in = [&](int column) {
    const int i = column - strip.first;
    return num_before[i] + __popc(mask[i] & lower_lanes);
  };
  const std::int64_t first = topk_idx.first_pair(token);
  for (int k = 0; k < topk_idx.num_topk; ++k) {
    const std::int64_t id = topk_idx.at(first + k);
    if (!topk_idx.is_valid(id)) continue;
    const int owner = topk_idx.owner_of(id);
    const int column = topk_idx.column_of_expert(id);
    if (strip.holds(owner)) places.token_slots[first + k] = place_in(owner);
    if (places.rows != nullptr && strip.holds(column)) places.rows[first + k] = place_in(column);
  }
}

/// Names the owners of a token's pairs, and marks the last pair of each. Takes the token's bits out of the
/// masks.
__device__ inline void name_owners(const TopkIdx& topk_idx, int token, const Strip& strip,
                                   std::uint32_t* mask, const PairPlaces& places) {
  const std::uint32_t bit = 1u << lane_in_warp();
  const std::int64_t first = topk_idx.first_pair(token);
  for (int k = topk_idx.num_topk - 1; k >= 0; --k) {
    const std::int64_t id = topk_idx.at(first + k);
    if (!topk_idx.is_valid(id)) {
      places.owners[first + k] = -1;
      places.token_slots[first + k] = -1;
      continue;
    }
    const int owner = topk_idx.owner_of(id);
    const bool is_last = (atomicAnd(&mask[owner - strip.first], ~bit) & bit) != 0;
    places.owners[first + k] = is_last ? owner | PlanLayout::kLastOfOwner : owner;
  }
}

/// Gives each pair of the block's tokens its place, in the order of the tokens. Follows count_tokens() of the
/// same tokens.
/// @param next  [R + E], the next free place of each column; moved on.
__device__ inline void place_tokens(const TopkIdx& topk_idx, const TokenRange& tokens, const Masks& masks,
                                    std::int32_t* next, const PairPlaces& places) {
  unsigned long long no_bad_pair = kNoBadPair;
  const bool are_marked = masks.hold_all(topk_idx, tokens);
  for_each_round(topk_idx, tokens, masks, are_marked, no_bad_pair, [&](const Strip& strip, int token, bool) {
    for (int c = thread_in_block(); c < strip.last - strip.first; c += kNumThreads) {
      std::int32_t num_before = next[strip.first + c];
      for (int w = 0; w < masks.num_warps; ++w) {
        masks.num_before[w * masks.num_columns + c] = num_before;
        num_before += __popc(masks.words[w * masks.num_columns + c]);
      }
      next[strip.first + c] = num_before;
    }
    __syncthreads();
    if (warp_in_block() >= masks.num_warps) return;
    const std::size_t first = static_cast<std::size_t>(warp_in_block()) * masks.num_columns;
    std::uint32_t* mask = masks.words + first;
    if (token >= 0) place_pairs(topk_idx, token, strip, mask, masks.num_before + first, places);
    __syncwarp();
    // Ranks come first among the columns, and all of them fit the first strip.
    if (token >= 0 && strip.first == 0) name_owners(topk_idx, token, strip, mask, places);
  });
}

}  // namespace flexep::cuda
