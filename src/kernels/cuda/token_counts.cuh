// SPDX-License-Identifier: Apache-2.0
//
// From ids to counts and slots, without atomics on counters: a warp takes 32 tokens, a bit each, and marks
// them in one mask for each rank and expert. Population counts of the masks are counts; of the lower
// bits, slots. So the order is that of the tokens, whatever the timing.
#pragma once

#include "kernels/cuda/plan_layout.h"
#include "kernels/cuda/work_deal.cuh"

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

/// The bit masks of a block in shared memory. Where there are more columns than fit, they are handled in
/// strips, one after the other; where there are many, fewer warps work at a time.
struct Masks {
  std::uint32_t* words;  ///< [num_warps, num_columns]: bit l of [w, c]: the warp's token l goes to column c
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

/// Up to 32 consecutive tokens, a bit of each mask for each.
struct WarpTokens {
  int begin;
  int num_tokens;
};

/// One id, and the token's bit.
struct Pair {
  std::int64_t index;  ///< in [T, K]
  std::int64_t id;
  int column;  ///< in [0, K)
  int bit;

  __device__ std::int64_t first_of_token() const { return index - column; }
};

/// Calls visit(Pair) for all pairs of the tokens: a lane takes every 32nd, so that neighbours load from one
/// line, and has several loads in flight.
template <typename Visit>
__device__ void for_each_pair(const TopkIdx& topk_idx, const WarpTokens& tokens, Visit visit) {
  constexpr int kInFlight = 4;
  const std::int64_t first = topk_idx.first_pair(tokens.begin);
  const int num_pairs = tokens.num_tokens * topk_idx.num_topk;
#pragma unroll 1
  for (int begin = lane_in_warp(); begin < num_pairs; begin += kInFlight * kWarpSize) {
    std::int64_t ids[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j)
      ids[j] = topk_idx.at(first + min(begin + j * kWarpSize, num_pairs - 1));
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) {
      const int i = begin + j * kWarpSize;
      if (i >= num_pairs) break;
      const int bit = i / topk_idx.num_topk;
      visit(Pair{.index = first + i, .id = ids[j], .column = i - bit * topk_idx.num_topk, .bit = bit});
    }
  }
}

/// The second pair of a token that has this pair's id.
__device__ inline std::int64_t second_with_id(const TopkIdx& topk_idx, const Pair& pair) {
  int num_seen = 0;
  std::int64_t index = pair.first_of_token();
  while (true) {
    if (topk_idx.at(index) == pair.id && ++num_seen == 2) return index;
    ++index;
  }
}

/// Marks the tokens; `bad` becomes their first pair that cannot be sent, if that is smaller.
__device__ inline void mark_tokens(const TopkIdx& topk_idx, const WarpTokens& tokens, const Strip& strip,
                                   std::uint32_t* mask, unsigned long long& bad) {
  for_each_pair(topk_idx, tokens, [&](const Pair& pair) {
    if (pair.id == -1) return;
    if (!topk_idx.is_valid(pair.id)) {
      bad = min(bad, static_cast<unsigned long long>(pair.index));
      return;
    }
    const std::uint32_t bit = 1u << pair.bit;
    const int column = topk_idx.column_of_expert(pair.id);
    const int owner = topk_idx.owner_of(pair.id);
    const bool is_repeated = strip.holds(column) && (atomicOr(&mask[column - strip.first], bit) & bit) != 0;
    if (is_repeated) bad = min(bad, static_cast<unsigned long long>(second_with_id(topk_idx, pair)));
    if (strip.holds(owner)) atomicOr(&mask[owner - strip.first], bit);
  });
}

/// Some of the block's tokens, marked in one strip of columns.
struct Round {
  Strip strip;
  WarpTokens tokens;  ///< of this warp
  int num_warps;      ///< that have tokens
  bool is_first;      ///< of its strip
};

/// Calls visit(Round) after the masks of a round are complete, for all strips and for all rounds of the
/// block's tokens. Collective over the block. `bad` as mark_tokens().
/// @param are_marked  whether the masks hold the marks already: the same tokens before, all in one round.
template <typename Visit>
__device__ void for_each_round(const TopkIdx& topk_idx, const TokenRange& tokens, const Masks& masks,
                               bool are_marked, unsigned long long& bad, Visit visit) {
  constexpr int kMinTokensOfWarp = 8;  // each mask costs, too
  const int total_columns = topk_idx.num_columns();
  const int tokens_per_round = masks.num_warps * kWarpSize;
  for (int first = 0; first < total_columns; first += masks.num_columns) {
    const Strip strip{first, min(first + masks.num_columns, total_columns)};
    for (int begin = tokens.begin; begin < tokens.end; begin += tokens_per_round) {
      const int num_tokens = min(tokens.end - begin, tokens_per_round);
      const int per_warp = max(kMinTokensOfWarp, ceil_div(num_tokens, masks.num_warps));
      const int before = warp_in_block() * per_warp;
      const WarpTokens own{begin + before, max(0, min(num_tokens - before, per_warp))};
      if (own.num_tokens > 0 && !are_marked) {
        std::uint32_t* mask = masks.words + static_cast<std::size_t>(warp_in_block()) * masks.num_columns;
#pragma unroll 1
        for (int c = lane_in_warp(); c < masks.num_columns; c += kWarpSize) mask[c] = 0;
        __syncwarp();
        mark_tokens(topk_idx, own, strip, mask, bad);
      }
      __syncthreads();
      visit(Round{.strip = strip,
                  .tokens = own,
                  .num_warps = ceil_div(num_tokens, per_warp),
                  .is_first = begin == tokens.begin});
      __syncthreads();
    }
  }
}

/// Counts the block's tokens. @param counts  [R + E], written. @return the first pair that cannot be sent, or
/// kNoBadPair; of this thread's tokens.
__device__ inline unsigned long long count_tokens(const TopkIdx& topk_idx, const TokenRange& tokens,
                                                  const Masks& masks, std::int32_t* counts) {
  if (tokens.begin == tokens.end) {
#pragma unroll 1
    for (int c = thread_in_block(); c < topk_idx.num_columns(); c += kNumThreads) counts[c] = 0;
  }
  unsigned long long bad = kNoBadPair;
  for_each_round(topk_idx, tokens, masks, false, bad, [&](const Round& round) {
    const int first = round.strip.first;
#pragma unroll 1
    for (int c = thread_in_block(); c < round.strip.last - first; c += kNumThreads) {
      int count = 0;
      for (int w = 0; w < round.num_warps; ++w) count += __popc(masks.words[w * masks.num_columns + c]);
      counts[first + c] = round.is_first ? count : counts[first + c] + count;
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
#pragma unroll 1
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

/// Whether no later pair of the token has the same owner.
__device__ inline bool is_last_of_owner(const TopkIdx& topk_idx, const Pair& pair, int owner) {
  const std::int64_t first_id = static_cast<std::int64_t>(owner) * topk_idx.num_local_experts;
  bool is_last = true;
#pragma unroll 4
  for (int later = 1; later < topk_idx.num_topk - pair.column; ++later) {
    const std::int64_t id = topk_idx.at(pair.index + later);
    is_last = is_last && (id < first_id || id >= first_id + topk_idx.num_local_experts);
  }
  return is_last;
}

/// The places of pairs in the columns of a strip: those before its warp's tokens, and those of the tokens
/// before its own; and, with the first strip, their owners.
__device__ inline void place_pairs(const TopkIdx& topk_idx, const Round& round, const std::uint32_t* mask,
                                   const std::int32_t* num_before, const PairPlaces& places) {
  const Strip strip = round.strip;
  for_each_pair(topk_idx, round.tokens, [&](const Pair& pair) {
    // Ranks come first among the columns, and all of them fit the first strip.
    if (!topk_idx.is_valid(pair.id)) {
      if (strip.first == 0) places.owners[pair.index] = places.token_slots[pair.index] = -1;
      return;
    }
    const std::uint32_t earlier = (1u << pair.bit) - 1;
    const auto place_in = [&](int column) {
      const int i = column - strip.first;
      return num_before[i] + __popc(mask[i] & earlier);
    };
    const int owner = topk_idx.owner_of(pair.id);
    const int column = topk_idx.column_of_expert(pair.id);
    if (places.rows != nullptr && strip.holds(column)) places.rows[pair.index] = place_in(column);
    if (strip.first != 0) return;
    places.token_slots[pair.index] = place_in(owner);
    places.owners[pair.index] =
        is_last_of_owner(topk_idx, pair, owner) ? owner | PlanLayout::kLastOfOwner : owner;
  });
}

/// Gives each pair of the block's tokens its place, in the order of the tokens. Follows count_tokens() of the
/// same tokens.
/// @param next  [R + E], the next free place of each column; moved on.
__device__ inline void place_tokens(const TopkIdx& topk_idx, const TokenRange& tokens, const Masks& masks,
                                    std::int32_t* next, const PairPlaces& places) {
  unsigned long long no_bad_pair = kNoBadPair;
  const bool are_marked = masks.hold_all(topk_idx, tokens);
  for_each_round(topk_idx, tokens, masks, are_marked, no_bad_pair, [&](const Round& round) {
    const int first = round.strip.first;
#pragma unroll 1
    for (int c = thread_in_block(); c < round.strip.last - first; c += kNumThreads) {
      std::int32_t num_before = next[first + c];
      for (int w = 0; w < round.num_warps; ++w) {
        masks.num_before[w * masks.num_columns + c] = num_before;
        num_before += __popc(masks.words[w * masks.num_columns + c]);
      }
      next[first + c] = num_before;
    }
    __syncthreads();
    if (round.tokens.num_tokens == 0) return;
    const std::size_t of_warp = static_cast<std::size_t>(warp_in_block()) * masks.num_columns;
    place_pairs(topk_idx, round, masks.words + of_warp, masks.num_before + of_warp, places);
  });
}

}  // namespace flexep::cuda
