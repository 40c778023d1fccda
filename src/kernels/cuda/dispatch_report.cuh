// SPDX-License-Identifier: Apache-2.0
//
// Dispatch: what the speaker makes of the verdict, for the handle and for the host.
#pragma once

#include "kernels/cuda/dispatch_block.cuh"

namespace flexep::cuda {

/// Pairs that go to `rank`; summed by a warp.
__device__ __forceinline__ std::int32_t sent_pairs(DispatchBlock& dispatch, const Messages& messages,
                                                   int rank) {
  const int num_local = dispatch.topk_idx.num_local_experts;
  const std::int32_t* counts =
      messages.counts(dispatch.launch.peers.rank) + dispatch.topk_idx.column_of_expert(rank * num_local);
  std::int32_t sum = 0;
#pragma unroll 1
  for (int i = lane_in_warp(); i < num_local; i += kWarpSize) sum += counts[i];
  return __reduce_add_sync(0xFFFFFFFFu, sum);
}

__device__ __forceinline__ void report_counts(DispatchBlock& dispatch, OperationResult& result,
                                              const Crew& crew) {
  const Messages messages = dispatch.messages();
  const ResultLayout& layout = dispatch.launch.reports.layout;
  const int rank = dispatch.launch.peers.rank;
  const int num_local = dispatch.topk_idx.num_local_experts;
  auto* sizes = array_of<ReceiveSize>(result, layout.receive_sizes());
  auto* received = array_of<std::int32_t>(result, layout.recv_tokens_per_rank());
  auto* sent = array_of<std::int32_t>(result, layout.sent_tokens_per_rank());
#pragma unroll 1
  for (int r = crew.thread; r < dispatch.launch.peers.num_ranks; r += crew.num_threads) {
    sizes[r] = dispatch.plan.sizes[r];
    received[r] = messages.counts(r)[rank];
    sent[r] = messages.counts(rank)[r];
  }
  auto* per_expert = array_of<std::int32_t>(result, layout.recv_tokens_per_expert());
  auto* dropped = array_of<std::int32_t>(result, layout.dropped_tokens());
#pragma unroll 1
  for (int i = crew.thread; i < num_local; i += crew.num_threads) {
    const std::int32_t count = dispatch.plan.totals[dispatch.first_own_column() + i];
    per_expert[i] = count;
    dropped[i] = dispatch.plan.routed[i] - count;
  }
  auto* rows = array_of<std::int32_t>(result, layout.sent_rows_per_rank());
#pragma unroll 1
  for (int r = crew.warp(); r < dispatch.launch.peers.num_ranks; r += crew.num_warps()) {
    const std::int32_t num_rows =
        dispatch.launch.format.do_expand ? sent_pairs(dispatch, messages, r) : messages.counts(rank)[r];
    if (lane_in_warp() == 0) rows[r] = num_rows;
  }
}

__device__ __forceinline__ void conclude_failure(DispatchBlock& dispatch, Verdict verdict) {
  const Crew everybody{thread_in_block(), kNumThreads, 0};
  if (verdict == Verdict::kTooLarge || verdict == Verdict::kDoesNotFit)
    report_counts(dispatch, *dispatch.launch.reports.result, everybody);
  report_failed_verdict(dispatch.operation, dispatch.messages(), dispatch.judgement());
}

__device__ __forceinline__ void keep_psum_of_ranks(DispatchBlock& dispatch, const Messages& messages) {
  auto* psum = dispatch.kept<std::int32_t>(dispatch.launch.plan_layout.psum_num_recv_tokens_per_rank());
  std::int64_t before = 0;
#pragma unroll 1
  for (int first = 0; first < dispatch.launch.peers.num_ranks; first += kWarpSize) {
    const int r = first + lane_in_warp();
    const bool exists = r < dispatch.launch.peers.num_ranks;
    const std::int64_t end =
        before + inclusive_sum_of_warp(exists ? messages.counts(r)[dispatch.launch.peers.rank] : 0);
    if (exists) psum[r] = static_cast<std::int32_t>(end);
    before = __shfl_sync(0xFFFFFFFFu, end, kWarpSize - 1);
  }
}

__device__ __forceinline__ void keep_plan(DispatchBlock& dispatch, const Crew& crew) {
  const Messages messages = dispatch.messages();
  auto* sizes = dispatch.kept<ReceiveSize>(dispatch.launch.plan_layout.layout_sizes());
#pragma unroll 1
  for (int r = crew.thread; r < dispatch.launch.peers.num_ranks; r += crew.num_threads)
    sizes[r] = dispatch.plan.sizes[r];
  if (crew.warp() == 0) keep_psum_of_ranks(dispatch, messages);
  if (crew.thread != 0) return;
  const ReceiveSize& own = dispatch.plan.sizes[dispatch.launch.peers.rank];
  dispatch.head() = {.is_valid = 1,
                     .num_tokens = dispatch.num_tokens,
                     .num_recv_tokens = own.num_recv_tokens,
                     .num_rows = own.num_rows(dispatch.launch.format.do_expand),
                     .num_max_tokens_per_rank = dispatch.memory.num_max_tokens_per_rank};
}

__device__ __forceinline__ void add_stats(DispatchBlock& dispatch, const Crew& crew) {
  std::int32_t* stats = dispatch.launch.cumulative_local_expert_recv_stats;
  if (stats == nullptr) return;
#pragma unroll 1
  for (int i = crew.thread; i < dispatch.topk_idx.num_local_experts; i += crew.num_threads)
    stats[i] += dispatch.plan.routed[i];
}

__device__ __forceinline__ void report_sizes(DispatchBlock& dispatch, const Crew& crew) {
  OperationResult& result = *dispatch.launch.reports.result;
  if (crew.thread == 0) {
    const ReceiveSize& own = dispatch.plan.sizes[dispatch.launch.peers.rank];
    report_go(result);
    result.num_recv_tokens = own.num_recv_tokens;
    result.num_expanded_tokens = own.num_expanded_tokens;
    result.num_max_tokens_per_rank = dispatch.memory.num_max_tokens_per_rank;
  }
  make_ready(dispatch.operation, result, crew);
}

/// While rows are moving already.
__device__ __forceinline__ void conclude(DispatchBlock& dispatch, const Crew& crew) {
  if (!dispatch.launch.is_cached()) {
    keep_plan(dispatch, crew);
    report_counts(dispatch, *dispatch.launch.reports.result, crew);
  }
  add_stats(dispatch, crew);
  report_sizes(dispatch, crew);
}

}  // namespace flexep::cuda
