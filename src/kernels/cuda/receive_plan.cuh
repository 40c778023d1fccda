// SPDX-License-Identifier: Apache-2.0
//
// From all ranks' counts to where everything goes: what routing/receive_layout and routing/send_plan compute
// on the host.
#pragma once

#include "common/math.h"
#include "kernels/cuda/exchange.cuh"
#include "kernels/cuda/scratch.cuh"
#include "kernels/cuda/token_counts.cuh"
#include "routing/output_layout.h"

namespace flexep::cuda {

/// The region of one destination rank, as this rank addresses it; parts that the output lacks are null.
struct PushTarget {
  std::byte* x;
  std::uint32_t* sf;
  std::int64_t sf_row_stride;
  std::int64_t sf_pack_stride;
  std::byte* topk_idx;
  std::byte* topk_weights;
  std::int32_t* metadata;
};

/// Arrays of a block.
struct ReceivePlan {
  std::int32_t* totals;  ///< [R + E], sums of all ranks' counts
  std::int32_t* next;    ///< [R + E], first place of this rank's tokens in each column
  ReceiveSize* sizes;    ///< [R], what each rank receives
  PushTarget* targets;   ///< [R]
  std::int32_t* starts;  ///< [El], first row of each expert of this rank
  std::int32_t* routed;  ///< [El], pairs of each expert of this rank, before drops
  std::int32_t*
      quotas;  ///< [R], places that a rank keeps: of all its rows (compact) or of each expert's (expanded)

  __device__ ReceivePlan(Scratch& scratch, int num_ranks, int num_experts)
      : totals(scratch.take<std::int32_t>(num_ranks + num_experts)),
        next(scratch.take<std::int32_t>(num_ranks + num_experts)),
        sizes(scratch.take<ReceiveSize>(num_ranks)),
        targets(scratch.take<PushTarget>(num_ranks)),
        starts(scratch.take<std::int32_t>(num_experts / num_ranks)),
        routed(scratch.take<std::int32_t>(num_experts / num_ranks)),
        quotas(scratch.take<std::int32_t>(num_ranks)) {}

  static constexpr std::size_t num_bytes(int num_ranks, int num_experts) {
    return 2 * Scratch::bytes_of<std::int32_t>(num_ranks + num_experts) +
           Scratch::bytes_of<ReceiveSize>(num_ranks) + Scratch::bytes_of<PushTarget>(num_ranks) +
           2 * Scratch::bytes_of<std::int32_t>(num_experts / num_ranks) +
           Scratch::bytes_of<std::int32_t>(num_ranks);
  }
};

constexpr std::int64_t kMaxRows = 0x7FFFFFFF;

/// Sums the counts of all ranks, and of those before this one. Every value is loaded at once with the others:
/// a load is what takes time here.
/// @param count_before  count_before(column): what blocks before this one count.
template <typename CountBefore>
__device__ void sum_counts(const Peers& peers, const Messages& messages, const TopkIdx& topk_idx,
                           const ReceivePlan& plan, Judgement& judgement, CountBefore count_before) {
#pragma unroll 1
  for (int c = thread_in_block(); c < topk_idx.num_columns(); c += kNumThreads) {
    std::int64_t total = 0;
    std::int64_t before = 0;
#pragma unroll 8
    for (int r = 0; r < peers.num_ranks; ++r) {
      const std::int32_t count = messages.counts(r)[c];
      total += count;
      if (r < peers.rank) before += count;
    }
    plan.totals[c] = static_cast<std::int32_t>(total);
    plan.next[c] = static_cast<std::int32_t>(before) + count_before(c);
    if (total > kMaxRows)
      judgement.find(Verdict::kTooLarge, c < peers.num_ranks ? c : topk_idx.owner_of(c - peers.num_ranks));
  }
}

__device__ inline std::int64_t inclusive_sum_of_warp(std::int64_t value) {
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    const std::int64_t below = __shfl_up_sync(0xFFFFFFFFu, value, distance);
    if (lane_in_warp() >= distance) value += below;
  }
  return value;
}

/// Where each expert's rows begin on its owner: a warp takes a rank. Calls start(expert, its first row, its
/// aligned count); writes sizes. Reads totals.
template <typename Start>
__device__ void start_experts(const TopkIdx& topk_idx, int expert_alignment, const ReceivePlan& plan,
                              Judgement& judgement, Start start) {
  const int num_local = topk_idx.num_local_experts;
#pragma unroll 1
  for (int rank = warp_in_block(); rank < topk_idx.num_ranks; rank += kNumWarps) {
    std::int64_t next_start = 0;
#pragma unroll 1
    for (int i = 0; i < num_local; i += kWarpSize) {
      const int local = i + lane_in_warp();
      const int expert = rank * num_local + local;
      const std::int64_t count = local < num_local ? plan.totals[topk_idx.num_ranks + expert] : 0;
      const std::int64_t aligned = align_up(count, std::int64_t{expert_alignment});
      const std::int64_t end = next_start + inclusive_sum_of_warp(aligned);
      if (local < num_local)
        start(expert, static_cast<std::int32_t>(end - aligned), static_cast<std::int32_t>(aligned));
      next_start = __shfl_sync(0xFFFFFFFFu, end, kWarpSize - 1);
    }
    if (lane_in_warp() != 0) continue;
    plan.sizes[rank] = {plan.totals[rank], static_cast<int>(next_start)};
    if (next_start > kMaxRows) judgement.find(Verdict::kTooLarge, rank);
  }
}

/// Whether some rank would receive more rows than its limit. Collective over the block, and the same on all
/// ranks.
__device__ inline bool exceeds_limits(const Peers& peers, const Messages& messages, const ReceivePlan& plan,
                                      bool do_expand) {
  bool exceeds = false;
#pragma unroll 1
  for (int r = thread_in_block(); r < peers.num_ranks; r += kNumThreads) {
    const std::int32_t limit = messages.header(r).max_recv_tokens;
    exceeds = exceeds || (limit > 0 && plan.sizes[r].num_rows(do_expand) > limit);
  }
  return __syncthreads_or(exceeds) != 0;
}

/// Rows of a rank's expanded output whose experts keep at most `quota` pairs each; summed by a warp.
__device__ inline std::int64_t num_rows_with(const std::int32_t* counts, int num_local_experts,
                                             int expert_alignment, std::int32_t quota) {
  std::int64_t sum = 0;
  for (int i = lane_in_warp(); i < num_local_experts; i += kWarpSize)
    sum += align_up(std::int64_t{min(counts[i], quota)}, std::int64_t{expert_alignment});
  return __shfl_sync(0xFFFFFFFFu, inclusive_sum_of_warp(sum), kWarpSize - 1);
}

/// The largest number of pairs that each expert may keep: rows grow with it, so it is found by bisection. A
/// warp's work.
__device__ inline std::int32_t largest_quota(const std::int32_t* counts, int num_local_experts,
                                             int expert_alignment, std::int32_t limit) {
  std::int32_t fits = 0;
  std::int32_t too_large = limit + 1;  // rows are at least the pairs of the fullest expert, if it has as many
  while (too_large - fits > 1) {
    const std::int32_t middle = fits + (too_large - fits) / 2;
    (num_rows_with(counts, num_local_experts, expert_alignment, middle) <= limit ? fits : too_large) = middle;
  }
  return fits;
}

/// What each rank keeps; as drop_pairs() of routing/drops.h.
__device__ inline void find_quotas(const Peers& peers, const Messages& messages, const TopkIdx& topk_idx,
                                   const OutputFormat& format, int expert_alignment,
                                   const ReceivePlan& plan) {
  const int num_local = topk_idx.num_local_experts;
#pragma unroll 1
  for (int r = warp_in_block(); r < peers.num_ranks; r += kNumWarps) {
    const std::int32_t limit = messages.header(r).max_recv_tokens;
    std::int32_t quota = static_cast<std::int32_t>(kMaxRows);
    if (limit > 0 && plan.sizes[r].num_rows(format.do_expand) > limit) {
      const std::int32_t* counts =
          plan.totals + topk_idx.column_of_expert(static_cast<std::int64_t>(r) * num_local);
      quota = format.do_expand ? largest_quota(counts, num_local, expert_alignment, limit) : limit;
    }
    if (lane_in_warp() == 0) plan.quotas[r] = quota;
  }
}

/// The sizes by which a rank's output is laid out.
__device__ inline ReceiveSize layout_size(const ExchangeHeader& header, const ReceiveSize& received) {
  if (header.bound_recv_tokens < 0) return received;
  return {header.bound_recv_tokens, header.bound_expanded_tokens};
}

__device__ inline PushTarget target_in(const OutputLayout& layout, std::byte* region) {
  return {.x = region,
          .sf = layout.sf_bytes > 0 ? reinterpret_cast<std::uint32_t*>(region + layout.sf_offset()) : nullptr,
          .sf_row_stride = layout.sf_row_stride,
          .sf_pack_stride = layout.sf_pack_stride,
          .topk_idx = layout.topk_idx_bytes > 0 ? region + layout.topk_idx_offset() : nullptr,
          .topk_weights = layout.topk_weights_bytes > 0 ? region + layout.topk_weights_offset() : nullptr,
          .metadata = layout.metadata_bytes > 0
                          ? reinterpret_cast<std::int32_t*>(region + layout.metadata_offset())
                          : nullptr};
}

/// Where each rank's output begins, for this rank.
__device__ inline void find_regions(const Peers& peers, const Messages& messages, const ReceivePlan& plan) {
#pragma unroll 1
  for (int r = thread_in_block(); r < peers.num_ranks; r += kNumThreads)
    plan.targets[r].x = resolve(peers, r, messages.header(r).region);
}

/// Do all outputs fit their regions, and where do their parts lie? Follows find_regions().
__device__ inline void find_targets(const Peers& peers, const Messages& messages, const OutputFormat& format,
                                    const ReceivePlan& plan, Judgement& judgement) {
#pragma unroll 1
  for (int r = thread_in_block(); r < peers.num_ranks; r += kNumThreads) {
    const ExchangeHeader& header = messages.header(r);
    const ReceiveSize size = layout_size(header, plan.sizes[r]);
    const OutputLayout layout(format, size);
    const bool fits = layout.num_bytes() <= header.region_bytes &&
                      plan.sizes[r].num_recv_tokens <= size.num_recv_tokens &&
                      plan.sizes[r].num_rows(format.do_expand) <= size.num_rows(format.do_expand);
    if (!fits) judgement.find(Verdict::kDoesNotFit, r);
    std::byte* region = plan.targets[r].x;
    if (region == nullptr && layout.num_bytes() > 0) judgement.find(Verdict::kUnreachable, r);
    plan.targets[r] = target_in(layout, region);
  }
}

}  // namespace flexep::cuda
