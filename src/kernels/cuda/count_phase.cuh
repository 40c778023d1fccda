// SPDX-License-Identifier: Apache-2.0
//
// Dispatch, first phase: ids become counts, and all ranks hear those of all.
#pragma once

#include "kernels/cuda/dispatch_block.cuh"

namespace flexep::cuda {

__device__ __forceinline__ TopkWeights topk_weights_of(const DispatchBlock& dispatch) {
  return {dispatch.launch.topk_weights, dispatch.launch.format.weight_bytes};
}

/// Tells the speaker of the block's first pair that cannot be sent.
/// @param bad  for its id; of this thread's tokens.
__device__ __forceinline__ void note_bad_pair(DispatchBlock& dispatch, unsigned long long bad) {
  if (dispatch.launch.check_weights)
    bad = min(bad, find_bad_weight(dispatch.topk_idx, dispatch.tokens, topk_weights_of(dispatch)));
  if (thread_in_block() == 0) dispatch.memory.bad_pair = kNoBadPair;
  __syncthreads();
  if (bad != kNoBadPair) atomicMin(&dispatch.memory.bad_pair, bad);
  __syncthreads();
  if (thread_in_block() == 0) dispatch.workspace.bad_pairs[block()] = dispatch.memory.bad_pair;
}

__device__ __forceinline__ void count(DispatchBlock& dispatch) {
  std::int32_t* counts =
      dispatch.workspace.counts + static_cast<std::int64_t>(block()) * dispatch.topk_idx.num_columns();
  note_bad_pair(dispatch, count_tokens(dispatch.topk_idx, dispatch.tokens, dispatch.masks, counts));
}

__device__ __forceinline__ std::int32_t count_of_blocks(DispatchBlock& dispatch, int column, int num_blocks) {
  std::int32_t count = 0;
#pragma unroll 16
  for (int b = 0; b < num_blocks; ++b)
    count +=
        dispatch.workspace.counts[static_cast<std::int64_t>(b) * dispatch.topk_idx.num_columns() + column];
  return count;
}

/// Of all blocks. Collective over the block.
__device__ __forceinline__ void find_first_bad_pair(DispatchBlock& dispatch) {
#pragma unroll 1
  for (int b = thread_in_block(); b < num_blocks(); b += kNumThreads)
    atomicMin(&dispatch.memory.bad_pair, dispatch.workspace.bad_pairs[b]);
  __syncthreads();
}

/// One thread's work.
__device__ __forceinline__ void refuse_bad_pair(DispatchBlock& dispatch) {
  const unsigned long long bad = dispatch.memory.bad_pair;
  if (bad == kNoBadPair) return;
  ExchangeHeader& header = dispatch.memory.exchange.header();
  const auto pair = static_cast<std::int64_t>(bad & ~kBadWeight);
  BadId& bad_id = header.bad_id;
  bad_id.token = static_cast<std::int32_t>(pair / dispatch.topk_idx.num_topk);
  bad_id.column = static_cast<std::int32_t>(pair % dispatch.topk_idx.num_topk);
  if ((bad & kBadWeight) != 0) {
    bad_id.value = static_cast<std::int64_t>(topk_weights_of(dispatch).bits_of_bad(pair));
    header.refusal = Refusal::kWeightNotFinite;
    return;
  }
  const std::int64_t value = dispatch.topk_idx.at(pair);
  bad_id.value = value;
  header.refusal = dispatch.topk_idx.is_valid(value) ? Refusal::kIdRepeated : Refusal::kIdOutOfRange;
  while (dispatch.topk_idx.at(dispatch.topk_idx.first_pair(bad_id.token) + bad_id.first_column) != value)
    ++bad_id.first_column;
}

__device__ __forceinline__ void announce_counts(DispatchBlock& dispatch, bool has_room) {
  find_first_bad_pair(dispatch);
  if (thread_in_block() == 0) {
    if (has_room) {
      refuse_bad_pair(dispatch);
    } else {
      dispatch.memory.exchange.header().refusal = Refusal::kTooManyTokens;
      dispatch.memory.exchange.header().bad_id.value = dispatch.num_tokens;
    }
  }
  send_message(dispatch.operation, dispatch.memory.exchange.header(), dispatch.num_message_words(),
               [&](int column) { return count_of_blocks(dispatch, column, num_blocks()); });
}

__device__ __forceinline__ bool hear(DispatchBlock& dispatch) {
  dispatch.judgement().reset();
  if (await_messages(dispatch.operation, dispatch.memory.exchange, dispatch.num_message_words())) {
    dispatch.operation.pass(Phase::kHeard);
    return true;
  }
  dispatch.operation.poison();
  if (is_speaker())
    report_timeout(dispatch.operation, dispatch.memory.exchange.missing, 0, Verdict::kTimedOut);
  return false;
}

__device__ __forceinline__ bool count_and_hear(DispatchBlock& dispatch, bool has_room) {
  count(dispatch);
  dispatch.operation.arrive();
  if (!dispatch.operation.wait_for_all_blocks()) return false;
  dispatch.operation.pass(Phase::kPrepared);
  if (is_speaker()) announce_counts(dispatch, has_room);
  return hear(dispatch);
}

}  // namespace flexep::cuda
