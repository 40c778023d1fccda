// SPDX-License-Identifier: Apache-2.0
#include "flexep/dispatch_handle.h"

#include "core/dispatch_state.h"

namespace flexep {

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
  return state_->send.num_tokens;
}
int DispatchHandle::num_recv_tokens() const {
  return state_->receive.num_recv_tokens;
}
int DispatchHandle::num_expanded_tokens() const {
  return state_->receive.num_expanded_tokens;
}
int DispatchHandle::num_rows() const {
  return state_->num_rows();
}
const Tensor& DispatchHandle::topk_idx() const {
  return state_->topk_idx;
}

std::span<const std::int32_t> DispatchHandle::num_recv_tokens_per_expert() const {
  return state_->receive.num_recv_tokens_per_expert;
}
std::span<const std::int32_t> DispatchHandle::num_dropped_tokens() const {
  return state_->num_dropped_tokens;
}
std::span<const std::int32_t> DispatchHandle::num_aligned_recv_tokens_per_expert() const {
  return state_->receive.num_aligned_recv_tokens_per_expert;
}
std::span<const std::int32_t> DispatchHandle::expert_start_rows() const {
  return state_->receive.expert_start_rows;
}
std::span<const std::int32_t> DispatchHandle::psum_num_recv_tokens_per_expert() const {
  return state_->receive.psum_num_recv_tokens_per_expert;
}
std::span<const std::int32_t> DispatchHandle::psum_num_recv_tokens_per_rank() const {
  return state_->receive.psum_num_recv_tokens_per_rank;
}
const Tensor& DispatchHandle::recv_src_metadata() const {
  return state_->recv_src_metadata;
}

}  // namespace flexep
