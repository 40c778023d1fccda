// SPDX-License-Identifier: Apache-2.0
//
// The arguments of the operations that are fuzzed: right ones, and where the bytes say so, spoilt ones.
#include <algorithm>

#include "elastic_buffer_rank.h"

namespace flexep::fuzz {

ElasticBufferConfig draw_config(FuzzInput& input) {
  return {.num_max_tokens_per_rank = input.rarely() ? input.integer<int>() : input.in_range(0, 9),
          .hidden = input.rarely() ? input.integer<int>() : 64,
          .num_topk = input.rarely() ? input.integer<int>() : 4,
          .allow_multiple_reduction = input.flag(),
          .num_sms = input.in_range(0, 3),
          .max_arena_bytes = input.one_of<std::int64_t>({0, 0, 4096, 1 << 16, 1 << 24}),
          .explicitly_destroy = input.flag()};
}

DispatchArgs Rank::draw_fresh() {
  const int num_experts = outcomes_.num_ranks() * input_.in_range(1, 4);
  const int num_topk = std::min(num_experts, input_.in_range(1, 4));
  int num_tokens = 0;
  for (int rank = 0; rank < outcomes_.num_ranks(); ++rank) {
    const int tokens_of_rank = input_.in_range(0, 9);
    if (rank == outcomes_.rank()) num_tokens = tokens_of_rank;
  }
  DispatchArgs args;
  draw_rows(args, num_tokens);
  args.topk_idx = draw_ids(num_tokens, num_topk, num_experts);
  if (input_.flag()) args.topk_weights = with_some_strides(input_, {num_tokens, num_topk}, DType::kFloat32);
  args.num_experts = num_experts;
  args.expert_alignment = input_.one_of({0, 1, 3, 16});
  args.do_expand = input_.flag();
  args.do_zero_padding = input_.flag() && *args.do_expand;
  args.use_tma_aligned_col_major_sf = input_.flag();
  args.do_handle_copy = input_.flag();
  args.max_recv_tokens = input_.rarely() ? input_.in_range(0, 20) : 0;
  args.do_cpu_sync = !(may_bound_outputs_ && input_.flag());
  args.check_weights = input_.flag();
  if (input_.flag()) {
    args.cumulative_local_expert_recv_stats =
        Tensor::zeros({num_experts / outcomes_.num_ranks()}, DType::kInt32);
  }
  return args;
}

DispatchArgs Rank::draw_cached() {
  DispatchArgs args;
  args.handle = some_result().handle;
  draw_rows(args, args.handle.num_tokens());
  return args;
}

void Rank::draw_rows(DispatchArgs& args, int num_tokens) {
  const DType dtype = draw_dtype(input_);
  const std::int64_t hidden = input_.in_range(1, 5) * 16 / static_cast<std::int64_t>(size_of(dtype));
  args.x = with_some_strides(input_, {num_tokens, hidden}, dtype);
  if (input_.flag())
    args.sf = with_some_strides(input_, {num_tokens, input_.in_range(1, 3)}, DType::kFloat32);
  args.num_sms = input_.in_range(0, 2);
  draw_streams(args);
}

/// Distinct ids, some of them -1; rarely one that may be anything.
Tensor Rank::draw_ids(int num_tokens, int num_topk, int num_experts) {
  const int first = input_.byte(), unrouted = input_.in_range(2, 7);
  std::vector<std::int64_t> ids;
  for (int token = 0; token < num_tokens; ++token) {
    for (int k = 0; k < num_topk; ++k) {
      const bool is_routed = (token + k) % unrouted != 0;
      ids.push_back(is_routed ? (first + token * 5 + k + outcomes_.rank()) % num_experts : -1);
    }
  }
  if (input_.rarely()) {
    const int ranks = input_.byte();
    const std::size_t pair = input_.byte();
    const auto id = input_.integer<std::int64_t>();
    if (is_among(ranks) && !ids.empty()) ids[pair % ids.size()] = id;
  }
  const Shape shape{num_tokens, num_topk};
  if (input_.flag()) return Tensor::from_values(std::span<const std::int64_t>(ids), shape);
  std::vector<std::int32_t> narrow;
  for (const std::int64_t id : ids) narrow.push_back(static_cast<std::int32_t>(id));
  return Tensor::from_values(std::span<const std::int32_t>(narrow), shape);
}

void Rank::spoil(DispatchArgs& args) {
  if (!input_.rarely()) return;
  const int ranks = input_.byte();
  DispatchArgs spoiled = args;
  switch (input_.in_range(0, 15)) {
    case 0:
      spoiled.x = draw_tensor(input_);
      break;
    case 1:
      spoiled.sf = draw_tensor(input_);
      break;
    case 2:
      spoiled.topk_idx = draw_tensor(input_);
      break;
    case 3:
      spoiled.topk_weights = draw_tensor(input_);
      break;
    case 4:
      spoiled.cumulative_local_expert_recv_stats = draw_tensor(input_);
      break;
    case 5:
      spoiled.num_experts = input_.integer<int>();
      break;
    case 6:
      spoiled.expert_alignment = input_.integer<int>();
      break;
    case 7:
      spoiled.num_max_tokens_per_rank = input_.integer<int>();
      break;
    case 8:
      spoiled.num_sms = input_.one_of({-1, 3, 1025, 1 << 30});
      break;
    case 9:
      spoiled.max_recv_tokens = input_.integer<int>();
      break;
    case 10:
      spoiled.do_expand = input_.flag();
      break;
    case 11:
      spoiled.do_zero_padding = input_.flag();
      break;
    case 12:
      spoiled.use_tma_aligned_col_major_sf = input_.flag();
      break;
    case 13:
      if (may_bound_outputs_) spoiled.do_cpu_sync = input_.flag();
      break;
    case 14:
      spoiled.num_qps = input_.integer<int>();
      break;
    default:
      if (!received_.empty()) spoiled.handle = some_result().handle;
  }
  if (is_among(ranks)) args = spoiled;
}

void Rank::spoil(CombineArgs& args) {
  if (!input_.rarely()) return;
  const int ranks = input_.byte();
  CombineArgs spoiled = args;
  switch (input_.in_range(0, 4)) {
    case 0:
      spoiled.x = draw_tensor(input_);
      break;
    case 1:
      spoiled.topk_weights = draw_tensor(input_);
      break;
    case 2:
      spoiled.bias[1] = draw_tensor(input_);
      break;
    case 3:
      spoiled.num_sms = input_.one_of({-1, 3, 1025, 1 << 30});
      break;
    default:
      spoiled.handle = input_.flag() ? DispatchHandle() : some_result().handle;
  }
  if (is_among(ranks)) args = spoiled;
}

}  // namespace flexep::fuzz
