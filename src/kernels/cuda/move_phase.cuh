// SPDX-License-Identifier: Apache-2.0
//
// Dispatch, last phase: rows and what goes with them to their places.
#pragma once

#include "kernels/cuda/dispatch_block.cuh"
#include "kernels/cuda/dispatch_report.cuh"

namespace flexep::cuda {

__device__ __forceinline__ void keep_ids(DispatchBlock& dispatch, const Crew& crew) {
  if (dispatch.launch.is_cached() || dispatch.launch.kept_topk_idx == nullptr ||
      dispatch.launch.kept_topk_idx == dispatch.topk_idx.ids)
    return;
  const std::int64_t end = dispatch.topk_idx.first_pair(dispatch.tokens.end);
#pragma unroll 1
  for (std::int64_t i = dispatch.topk_idx.first_pair(dispatch.tokens.begin) + crew.thread; i < end;
       i += crew.num_threads)
    store_id(static_cast<std::byte*>(dispatch.launch.kept_topk_idx), i, dispatch.topk_idx.idx_bytes,
             dispatch.topk_idx.at(i));
}

__device__ __forceinline__ void push_rest(DispatchBlock& dispatch, const SideData& side, const Crew& crew) {
  if (is_speaker()) conclude(dispatch, crew);
  push_side_data(side, crew.warp(), crew.num_warps());
  keep_ids(dispatch, crew);
  if (!dispatch.launch.do_zero_padding) return;
  zero_gaps(dispatch.launch, dispatch.plan.targets[dispatch.launch.peers.rank],
            dispatch.plan.totals + dispatch.first_own_column(), dispatch.plan.starts,
            block() * crew.num_warps() + crew.warp(), num_blocks() * crew.num_warps());
}

/// A few warps move rows, the others what goes with them.
__device__ __forceinline__ void push_in_bulk(DispatchBlock& dispatch, const PushJob& job,
                                             const SideData& side) {
  prepare_pipelines(dispatch.memory.push);
  constexpr int kPushThreads = BulkPush::kWarps * kWarpSize;
  const int warp = warp_in_block();
  if (warp < BulkPush::kWarps) {
    BulkPipeline(job, TokenSource(dispatch.operation, dispatch.num_tokens, warp), dispatch.dynamic,
                 dispatch.memory.push, warp)
        .run();
  } else {
    push_rest(dispatch, side, {thread_in_block() - kPushThreads, kNumThreads - kPushThreads, 1});
  }
}

/// Gives each pair its place, and moves rows.
template <bool kBulk>
__device__ __forceinline__ void move(DispatchBlock& dispatch) {
  const DispatchLaunch& launch = dispatch.launch;
  const PairPlaces places = dispatch.places();
  if (!launch.is_cached()) {
    place_tokens(dispatch.topk_idx, dispatch.tokens, dispatch.masks, dispatch.plan.next, places);
    if (kBulk && TokenSource::most_shared(dispatch.num_tokens) > 0) dispatch.operation.arrive();
  }
  dispatch.operation.pass(Phase::kPlaced);
  const bool do_expand = launch.format.do_expand;
  const PushJob job{.num_tokens = dispatch.num_tokens,
                    .num_topk = launch.format.num_topk,
                    .do_expand = do_expand,
                    .row_bytes = launch.format.row_bytes,
                    .x = launch.x,
                    .x_stride = launch.x_stride,
                    .owners = places.owners,
                    .rows = do_expand ? places.rows : places.token_slots,
                    .targets = dispatch.plan.targets,
                    .is_across_link = launch.peers.is_across_link};
  const SideData side{launch,
                      job,
                      dispatch.tokens,
                      places.token_slots,
                      dispatch.topk_idx,
                      dispatch.memory.num_max_tokens_per_rank};
  if constexpr (kBulk && kHasBulkCopies) {
    push_in_bulk(dispatch, job, side);
  } else {
    push_through_registers(job, dispatch.tokens, warp_in_block(), kNumWarps);
    push_rest(dispatch, side, {thread_in_block(), kNumThreads, 0});
  }
}

}  // namespace flexep::cuda
