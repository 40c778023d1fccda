// SPDX-License-Identifier: Apache-2.0
#include "cuda_engine/handle_state.h"

#include "common/math.h"

namespace flexep::cuda {
namespace {

std::span<const std::int32_t> ints(const Flight& operation, std::size_t offset, std::size_t count) {
  const auto* const result = reinterpret_cast<const std::byte*>(&operation.result());
  return {reinterpret_cast<const std::int32_t*>(result + offset), count};
}

std::vector<std::int32_t> copy(std::span<const std::int32_t> values) {
  return {values.begin(), values.end()};
}

void fill_receive_layout(DispatchState& state, const Flight& dispatch) {
  const ResultLayout& layout = dispatch.layout();
  ReceiveLayout& receive = state.receive;
  receive.num_recv_tokens = dispatch.result().num_recv_tokens;
  receive.num_expanded_tokens = dispatch.result().num_expanded_tokens;
  std::int32_t num_tokens = 0;
  for (const std::int32_t count : ints(dispatch, layout.recv_tokens_per_rank(), layout.ranks()))
    receive.psum_num_recv_tokens_per_rank.push_back(num_tokens += count);

  const auto num_experts = static_cast<std::size_t>(layout.num_local_experts);
  receive.num_recv_tokens_per_expert = copy(ints(dispatch, layout.recv_tokens_per_expert(), num_experts));
  std::int32_t start = 0;
  for (const std::int32_t count : receive.num_recv_tokens_per_expert) {
    const std::int32_t aligned = align_up(count, state.shape.expert_alignment);
    receive.num_aligned_recv_tokens_per_expert.push_back(aligned);
    receive.expert_start_rows.push_back(start);
    receive.psum_num_recv_tokens_per_expert.push_back(start + (state.shape.do_expand ? count : aligned));
    start += aligned;
  }
}

}  // namespace

std::span<const std::int32_t> is_per_token(const Flight& combine) {
  return ints(combine, combine.layout().is_per_token(), combine.layout().ranks());
}

ReceiveSize receive_size_of(const Flight& dispatch, int rank) {
  const auto sizes = ints(dispatch, dispatch.layout().receive_sizes(), 2 * dispatch.layout().ranks());
  return {sizes[2 * static_cast<std::size_t>(rank)], sizes[2 * static_cast<std::size_t>(rank) + 1]};
}

void fill_counts(DispatchState& state, const Flight& dispatch) {
  const ResultLayout& layout = dispatch.layout();
  fill_receive_layout(state, dispatch);
  state.num_dropped_tokens =
      copy(ints(dispatch, layout.dropped_tokens(), static_cast<std::size_t>(layout.num_local_experts)));
  state.send.num_tokens = state.num_tokens;
  state.send.num_topk = state.shape.num_topk;
  state.send.num_tokens_per_rank = copy(ints(dispatch, layout.sent_tokens_per_rank(), layout.ranks()));
  state.send.num_rows_per_rank = copy(ints(dispatch, layout.sent_rows_per_rank(), layout.ranks()));
  for (int rank = 0; rank < layout.num_ranks; ++rank)
    state.receive_sizes.push_back(receive_size_of(dispatch, rank));
  state.is_planned = true;
}

}  // namespace flexep::cuda
