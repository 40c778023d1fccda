// SPDX-License-Identifier: Apache-2.0
#include "flexep/dispatch_handle.h"

#include <algorithm>

#include "common/check.h"
#include "core/dispatch_state.h"

namespace flexep {

const DispatchState& DispatchHandle::planned() const {
  require_argument(state_->is_planned, "handle",
                   "the counts of the dispatch of rank {}, made without host sync, are not known before its "
                   "event: wait for it first",
                   state_->rank);
  return *state_;
}

bool DispatchHandle::do_expand() const {
  return state_->shape.do_expand;
}
int DispatchHandle::num_experts() const {
  return state_->shape.num_experts;
}
int DispatchHandle::num_topk() const {
  return state_->shape.num_topk;
}
int DispatchHandle::expert_alignment() const {
  return state_->shape.expert_alignment;
}
int DispatchHandle::num_max_tokens_per_rank() const {
  return state_->num_max_tokens_per_rank;
}
int DispatchHandle::num_sms() const {
  return state_->num_sms;
}
int DispatchHandle::num_tokens() const {
  return state_->num_tokens;
}
bool DispatchHandle::do_cpu_sync() const {
  return state_->do_cpu_sync;
}
int DispatchHandle::num_recv_tokens() const {
  return state_->size.num_recv_tokens;
}
int DispatchHandle::num_expanded_tokens() const {
  return state_->size.num_expanded_tokens;
}
int DispatchHandle::num_rows() const {
  return state_->num_rows();
}
const Tensor& DispatchHandle::topk_idx() const {
  return planned().topk_idx;
}

std::span<const std::int32_t> DispatchHandle::num_recv_tokens_per_expert() const {
  return planned().receive.num_recv_tokens_per_expert;
}
std::span<const std::int32_t> DispatchHandle::num_dropped_tokens() const {
  return planned().num_dropped_tokens;
}
std::span<const std::int32_t> DispatchHandle::num_aligned_recv_tokens_per_expert() const {
  if (!state_->do_cpu_sync) return {};
  return planned().receive.num_aligned_recv_tokens_per_expert;
}
std::span<const std::int32_t> DispatchHandle::expert_start_rows() const {
  return planned().receive.expert_start_rows;
}
std::span<const std::int32_t> DispatchHandle::psum_num_recv_tokens_per_expert() const {
  return planned().receive.psum_num_recv_tokens_per_expert;
}
std::span<const std::int32_t> DispatchHandle::psum_num_recv_tokens_per_rank() const {
  return planned().receive.psum_num_recv_tokens_per_rank;
}
const Tensor& DispatchHandle::recv_src_metadata() const {
  return state_->recv_src_metadata;
}

Tensor DispatchHandle::dst_buffer_slot_idx() const {
  const SendPlan& send = planned().send;
  if (state_->dst_buffer_slot_idx) return state_->dst_buffer_slot_idx;
  const Tensor slots = Tensor::empty({send.num_tokens, send.num_topk}, DType::kInt32);
  const std::int32_t first_slot = state_->rank * state_->num_max_tokens_per_rank;
  const auto values = slots.values<std::int32_t>();
  std::ranges::fill(values, -1);
  for (const std::int64_t master : send.masters) {
    const auto pair = static_cast<std::size_t>(master);
    values[pair] = first_slot + send.token_slot[pair];
  }
  return slots;
}

}  // namespace flexep
