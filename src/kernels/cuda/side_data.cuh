// SPDX-License-Identifier: Apache-2.0
//
// Dispatch, data phase: what travels with the rows. Ids, weights, scaling factors, metadata; and zeros for
// the gaps.
#pragma once

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/push.cuh"
#include "kernels/cuda/weight.cuh"

namespace flexep::cuda {

/// Where the tokens of this rank land, beside PushJob.
struct SideData {
  const DispatchLaunch& launch;
  const PushJob& job;
  TokenRange tokens;                ///< of this block
  const std::int32_t* token_slots;  ///< [T, K]
  const TopkIdx& topk_idx;          ///< what is sent: after drops
  int num_max_tokens_per_rank;

  __device__ int owner(std::int64_t pair) const {
    const std::int32_t owner = job.owners[pair];
    return owner < 0 ? -1 : owner & ~PlanLayout::kLastOfOwner;
  }
};

__device__ inline void store_id(std::byte* ids, std::int64_t index, std::size_t idx_bytes, std::int64_t id) {
  if (idx_bytes == 8) {
    reinterpret_cast<std::int64_t*>(ids)[index] = id;
  } else {
    reinterpret_cast<std::int32_t*>(ids)[index] = static_cast<std::int32_t>(id);
  }
}

__device__ inline const std::byte* weight_of(const SideData& side, std::int64_t pair) {
  return side.launch.topk_weights + static_cast<std::size_t>(pair) * side.launch.format.weight_bytes;
}

/// The token's pairs as `owner` sees them: local ids and weights, nothing elsewhere.
__device__ inline void push_compact_pairs(const SideData& side, int token, int owner, std::int64_t slot) {
  const PushTarget& target = side.job.targets[owner];
  const OutputFormat& format = side.launch.format;
  const std::int64_t first_expert = static_cast<std::int64_t>(owner) * side.topk_idx.num_local_experts;
#pragma unroll 1
  for (int k = lane_in_warp(); k < side.job.num_topk; k += kWarpSize) {
    const std::int64_t pair = side.job.pair(token, k);
    const std::int64_t index = slot * side.job.num_topk + k;
    const bool is_local = side.owner(pair) == owner;
    store_id(target.topk_idx, index, format.idx_bytes, is_local ? side.topk_idx.at(pair) - first_expert : -1);
    if (target.topk_weights != nullptr)
      store_weight(target.topk_weights, index, format.weight_bytes,
                   is_local ? weight_of(side, pair) : nullptr);
  }
}

__device__ inline void push_metadata(const SideData& side, int token, int last_column, int owner,
                                     std::int64_t slot) {
  const int num_topk = side.job.num_topk;
  const int rank = side.launch.peers.rank;
  std::int32_t* row = side.job.targets[owner].metadata + slot * (num_topk + 2);
  if (lane_in_warp() == 0) row[0] = rank * side.num_max_tokens_per_rank + token;
  if (lane_in_warp() == 1) row[1] = rank * num_topk + last_column;
#pragma unroll 1
  for (int k = lane_in_warp(); k < num_topk; k += kWarpSize) {
    const std::int64_t pair = side.job.pair(token, k);
    row[2 + k] = side.job.do_expand && side.owner(pair) == owner ? side.job.rows[pair] : -1;
  }
}

__device__ inline void push_scales(const SideData& side, int token, const PushTarget& target,
                                   std::int64_t row) {
  const std::uint32_t* from = side.launch.sf + token * side.launch.sf_row_stride;
  std::uint32_t* to = target.sf + row * target.sf_row_stride;
#pragma unroll 1
  for (int pack = lane_in_warp(); pack < side.launch.format.num_sf_packs; pack += kWarpSize)
    to[pack * target.sf_pack_stride] = from[pack * side.launch.sf_pack_stride];
}

/// What goes with one pair of a token.
__device__ inline void push_side_data_of(const SideData& side, int token, int column) {
  const std::int64_t pair = side.job.pair(token, column);
  const int owner = side.owner(pair);
  if (owner < 0) return;
  const PushTarget& target = side.job.targets[owner];
  const bool is_last = (side.job.owners[pair] & PlanLayout::kLastOfOwner) != 0;
  const bool do_expand = side.job.do_expand;
  if (target.sf != nullptr && (is_last || !side.job.crosses_once(owner)))
    push_scales(side, token, target, side.job.rows[pair]);
  if (do_expand && target.topk_weights != nullptr && lane_in_warp() == 0)
    store_weight(target.topk_weights, side.job.rows[pair], side.launch.format.weight_bytes,
                 weight_of(side, pair));
  if (!is_last) return;
  const std::int64_t slot = side.token_slots[pair];
  if (!do_expand) push_compact_pairs(side, token, owner, slot);
  if (target.metadata != nullptr) push_metadata(side, token, column, owner, slot);
}

/// A warp takes a pair.
__device__ inline void push_side_data(const SideData& side, int worker, int num_workers) {
  const int num_topk = side.job.num_topk;
  const int num_pairs = (side.tokens.end - side.tokens.begin) * num_topk;
#pragma unroll 1
  for (int i = worker; i < num_pairs; i += num_workers)
    push_side_data_of(side, side.tokens.begin + i / num_topk, i % num_topk);
}

__device__ inline void zero_row(const DispatchLaunch& launch, const PushTarget& own, std::int64_t row) {
  std::byte* x = own.x + static_cast<std::size_t>(row) * launch.format.row_bytes;
  for (std::size_t at = static_cast<std::size_t>(lane_in_warp()) * sizeof(uint4);
       at < launch.format.row_bytes; at += kWarpSize * sizeof(uint4))
    store_row16(x + at, uint4{});
  if (own.topk_weights != nullptr && lane_in_warp() == 0)
    store_weight(own.topk_weights, row, launch.format.weight_bytes, nullptr);
  if (own.sf == nullptr) return;
#pragma unroll 1
  for (int pack = lane_in_warp(); pack < launch.format.num_sf_packs; pack += kWarpSize)
    own.sf[row * own.sf_row_stride + pack * own.sf_pack_stride] = 0;
}

/// Zeroes the alignment gaps of this rank's output; the gap rows of all experts are dealt out to the warps in
/// turn.
/// @param counts, starts  [El], of this rank
__device__ inline void zero_gaps(const DispatchLaunch& launch, const PushTarget& own,
                                 const std::int32_t* counts, const std::int32_t* starts, int worker,
                                 int num_workers) {
  const int num_local_experts = launch.num_experts / launch.peers.num_ranks;
  std::int64_t first_gap = 0;  // number of the expert's first gap row among all
#pragma unroll 1
  for (int i = 0; i < num_local_experts; ++i) {
    const int num_gaps = align_up(counts[i], launch.expert_alignment) - counts[i];
    const auto skipped = static_cast<int>((num_workers - first_gap % num_workers + worker) % num_workers);
#pragma unroll 1
    for (int gap = skipped; gap < num_gaps; gap += num_workers)
      zero_row(launch, own, static_cast<std::int64_t>(starts[i]) + counts[i] + gap);
    first_gap += num_gaps;
  }
}

}  // namespace flexep::cuda
