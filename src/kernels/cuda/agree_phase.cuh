// SPDX-License-Identifier: Apache-2.0
//
// Dispatch, second phase: what all messages together mean. Every block finds out for itself.
#pragma once

#include "kernels/cuda/count_phase.cuh"
#include "kernels/cuda/dispatch_report.cuh"

namespace flexep::cuda {

__device__ __forceinline__ void agree_on_num_max_tokens(DispatchBlock& dispatch, const Messages& messages) {
  if (thread_in_block() == 0) dispatch.memory.num_max_tokens_per_rank = 0;
  __syncthreads();
#pragma unroll 1
  for (int r = thread_in_block(); r < dispatch.launch.peers.num_ranks; r += kNumThreads) {
    const std::int32_t num_max_tokens = messages.header(r).num_max_tokens_per_rank;
    atomicMax(&dispatch.memory.num_max_tokens_per_rank, num_max_tokens);
    if (std::int64_t{num_max_tokens} * dispatch.launch.peers.num_ranks > kMaxRows)
      dispatch.judgement().find(Verdict::kTooLarge, dispatch.launch.peers.num_ranks);
  }
}

__device__ __forceinline__ void place_expert(DispatchBlock& dispatch, int expert, std::int32_t start,
                                             std::int32_t aligned) {
  const int column = dispatch.topk_idx.column_of_expert(expert);
  if (dispatch.launch.format.do_expand) dispatch.plan.next[column] += start;
  if (dispatch.topk_idx.owner_of(expert) != dispatch.launch.peers.rank) return;
  const int local = expert % dispatch.topk_idx.num_local_experts;
  const std::int32_t count = dispatch.plan.totals[column];
  dispatch.plan.starts[local] = start;
  if (!dispatch.has_dropped) dispatch.plan.routed[local] = count;
  if (!is_speaker()) return;
  const PlanLayout& layout = dispatch.launch.plan_layout;
  dispatch.kept<std::int32_t>(layout.num_recv_tokens_per_expert())[local] = count;
  dispatch.kept<std::int32_t>(layout.expert_start_rows())[local] = start;
  dispatch.kept<std::int32_t>(layout.psum_num_recv_tokens_per_expert())[local] =
      start + (dispatch.launch.format.do_expand ? count : aligned);
  dispatch.kept<std::int32_t>(layout.num_dropped_tokens())[local] = dispatch.plan.routed[local] - count;
}

/// @return whether all agree so far: what each rank receives is known.
__device__ __forceinline__ bool judge_counts(DispatchBlock& dispatch) {
  const Messages messages = dispatch.messages();
  Judgement& judgement = dispatch.judgement();
  compare_headers(dispatch.launch.peers, messages, judgement);
  if (judgement.settle() != Verdict::kGo) return false;
  sum_counts(dispatch.launch.peers, messages, dispatch.topk_idx, dispatch.plan, judgement,
             [&](int column) { return count_of_blocks(dispatch, column, block()); });
  find_regions(dispatch.launch.peers, messages, dispatch.plan);
  agree_on_num_max_tokens(dispatch, messages);
  __syncthreads();
  start_experts(dispatch.topk_idx, dispatch.launch.expert_alignment, dispatch.plan, judgement,
                [&](int expert, std::int32_t start, std::int32_t aligned) {
                  place_expert(dispatch, expert, start, aligned);
                });
  return judgement.settle() == Verdict::kGo;
}

__device__ __forceinline__ void place_outputs(DispatchBlock& dispatch) {
  if (dispatch.judgement().settle() != Verdict::kGo) return;
  find_targets(dispatch.launch.peers, dispatch.messages(), dispatch.launch.format, dispatch.plan,
               dispatch.judgement());
}

/// Takes the pairs that do not fit out of the ids, as if they had never been there; what is left is counted
/// and exchanged anew. @return false when another block timed out.
__device__ __forceinline__ bool drop_pairs(DispatchBlock& dispatch) {
  find_quotas(dispatch.launch.peers, dispatch.messages(), dispatch.topk_idx, dispatch.launch.format,
              dispatch.launch.expert_alignment, dispatch.plan);
  __syncthreads();  // the sizes, which are found once more, have been read
  const bool do_expand = dispatch.launch.format.do_expand;
  // Quotas count from an expert's first pair.
  start_experts(dispatch.topk_idx, dispatch.launch.expert_alignment, dispatch.plan, dispatch.judgement(),
                [&](int expert, std::int32_t start, std::int32_t) {
                  if (do_expand) dispatch.plan.next[dispatch.topk_idx.column_of_expert(expert)] -= start;
                });
  __syncthreads();
  place_tokens(dispatch.topk_idx, dispatch.tokens, dispatch.masks, dispatch.plan.next, dispatch.places());
  const std::int32_t* place = do_expand ? dispatch.places().rows : dispatch.places().token_slots;
  const std::int64_t end = dispatch.topk_idx.first_pair(dispatch.tokens.end);
#pragma unroll 1
  for (std::int64_t i = dispatch.topk_idx.first_pair(dispatch.tokens.begin) + thread_in_block(); i < end;
       i += kNumThreads) {
    const std::int64_t id = dispatch.topk_idx.at(i);
    const bool is_kept = id >= 0 && place[i] < dispatch.plan.quotas[dispatch.topk_idx.owner_of(id)];
    store_id(static_cast<std::byte*>(dispatch.launch.kept_topk_idx), i, dispatch.topk_idx.idx_bytes,
             is_kept ? id : -1);
  }
  dispatch.topk_idx.ids = dispatch.launch.kept_topk_idx;
  dispatch.has_dropped = true;
  ++dispatch.operation.exchange;
  dispatch.operation.arrive();  // others still read this block's counts
  return dispatch.operation.wait_for_all_blocks();
}

__device__ __forceinline__ void judge_handle(DispatchBlock& dispatch) {
  const Messages messages = dispatch.messages();
  Judgement& judgement = dispatch.judgement();
  compare_headers(dispatch.launch.peers, messages, judgement);
  if (judgement.settle() != Verdict::kGo) return;
  find_regions(dispatch.launch.peers, messages, dispatch.plan);
  const auto* sizes = dispatch.kept<ReceiveSize>(dispatch.launch.plan_layout.layout_sizes());
#pragma unroll 1
  for (int r = thread_in_block(); r < dispatch.launch.peers.num_ranks; r += kNumThreads)
    dispatch.plan.sizes[r] = sizes[r];
  const auto* starts = dispatch.kept<std::int32_t>(dispatch.launch.plan_layout.expert_start_rows());
  const auto* counts = dispatch.kept<std::int32_t>(dispatch.launch.plan_layout.num_recv_tokens_per_expert());
  const auto* dropped = dispatch.kept<std::int32_t>(dispatch.launch.plan_layout.num_dropped_tokens());
#pragma unroll 1
  for (int i = thread_in_block(); i < dispatch.topk_idx.num_local_experts; i += kNumThreads) {
    dispatch.plan.starts[i] = starts[i];
    dispatch.plan.totals[dispatch.first_own_column() + i] = counts[i];
    dispatch.plan.routed[i] = counts[i] + dropped[i];
  }
  if (thread_in_block() == 0)
    dispatch.memory.num_max_tokens_per_rank = dispatch.head().num_max_tokens_per_rank;
  __syncthreads();
  find_targets(dispatch.launch.peers, messages, dispatch.launch.format, dispatch.plan, judgement);
}

__device__ __forceinline__ bool settle(DispatchBlock& dispatch) {
  const Verdict verdict = dispatch.judgement().settle();
  if (is_speaker() && verdict != Verdict::kGo) conclude_failure(dispatch, verdict);
  return verdict == Verdict::kGo;
}

/// A fresh dispatch. @return whether it goes.
__device__ __forceinline__ bool count_and_agree(DispatchBlock& dispatch) {
  const DispatchLaunch& launch = dispatch.launch;
  if (is_speaker() && thread_in_block() == 0) dispatch.head().is_valid = 0;
  dispatch.num_tokens = launch.device_num_tokens == nullptr ? launch.num_tokens : *launch.device_num_tokens;
  const bool has_room = dispatch.num_tokens >= 0 && dispatch.num_tokens <= launch.plan_layout.max_tokens;
  dispatch.tokens = tokens_of_block(has_room ? dispatch.num_tokens : 0, block());
  while (true) {
    if (!count_and_hear(dispatch, has_room)) return false;
    if (!judge_counts(dispatch) || dispatch.has_dropped ||
        !exceeds_limits(launch.peers, dispatch.messages(), dispatch.plan, launch.format.do_expand))
      break;
    if (!drop_pairs(dispatch)) return false;
  }
  place_outputs(dispatch);
  return settle(dispatch);
}

/// One thread's work.
__device__ __forceinline__ void refuse_handle(DispatchBlock& dispatch) {
  if (dispatch.head().is_valid == 0) {
    dispatch.memory.exchange.header().refusal = Refusal::kInvalidHandle;
  } else if (dispatch.launch.check_weights) {
    refuse_bad_pair(dispatch);
  }
}

/// A cached dispatch.
__device__ __forceinline__ bool agree_on_handle(DispatchBlock& dispatch) {
  dispatch.num_tokens = dispatch.head().num_tokens;
  dispatch.tokens = tokens_of_block(dispatch.num_tokens, block());
  if (dispatch.launch.check_weights && dispatch.head().is_valid != 0) {
    note_bad_pair(dispatch, kNoBadPair);
    dispatch.operation.arrive();
    if (!dispatch.operation.wait_for_all_blocks()) return false;
    if (is_speaker()) find_first_bad_pair(dispatch);
  }
  if (is_speaker()) {
    if (thread_in_block() == 0) refuse_handle(dispatch);
    send_message(dispatch.operation, dispatch.memory.exchange.header(), 0, [](int) { return 0; });
  }
  if (!hear(dispatch)) return false;
  judge_handle(dispatch);
  return settle(dispatch);
}

}  // namespace flexep::cuda
