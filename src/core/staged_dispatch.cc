// SPDX-License-Identifier: Apache-2.0
#include "core/staged_dispatch.h"

#include <array>
#include <exception>

#include "common/check.h"
#include "core/requests.h"
#include "routing/output_layout.h"

namespace flexep {
namespace {

const std::byte* bytes_of(const Tensor& tensor) {
  return static_cast<const std::byte*>(tensor.data());
}

Shape strides_of(const Tensor& tensor) {
  std::array<std::int64_t, Shape::kMaxDims> strides{};
  for (int dim = 0; dim < tensor.num_dims(); ++dim)
    strides[static_cast<std::size_t>(dim)] = tensor.stride(dim);
  return Shape(std::span<const std::int64_t>(strides.data(), static_cast<std::size_t>(tensor.num_dims())));
}

}  // namespace

void StagedDispatch::run() {
  std::exception_ptr refusal;
  try {
    stage();
  } catch (...) {
    refusal = std::current_exception();
  }
  on_host_ = host_.dispatch(staged_, refusal);
  make_handle();
  make_outputs();
}

// What is counted goes first: rows follow while ranks tell each other their counts.
void StagedDispatch::stage() {
  staged_ = args_;
  request_ = resolve_dispatch(args_, context_);
  require_argument(
      !args_.num_tokens, "num_tokens",
      "num_tokens on rank {} is for a dispatch that is captured into a graph, which none is that "
      "crosses domains",
      context_.rank);
  if (args_.handle) staged_.handle = args_.handle.state().on_host;

  device_.follow(args_.previous_event);
  staged_.topk_idx = inputs_.fetch(args_.topk_idx);
  staged_.topk_weights = inputs_.fetch(args_.topk_weights);
  staged_.cumulative_local_expert_recv_stats = inputs_.fetch(args_.cumulative_local_expert_recv_stats);
  staged_.previous_event = inputs_.fetched();
  staged_.allocate_on_comm_stream = true;
  staged_.do_handle_copy = false;  // of a copy

  device_.follow_also(args_.previous_event_before_epilogue);
  staged_.x = inputs_.fetch(args_.x);
  staged_.sf = inputs_.fetch(args_.sf);
  staged_.previous_event_before_epilogue = inputs_.fetched();
}

// What the program sees is on the device; the host's dispatches and combines go on with its own.
void StagedDispatch::make_handle() {
  result_.handle = args_.handle;
  if (args_.handle) return;
  const DispatchState& planned = on_host_.handle.state();
  fresh_ = make_dispatch_state(request_, planned.rank, planned.id);
  fresh_->on_host = on_host_.handle;
  fresh_->routes = planned.routes;
  fresh_->num_max_tokens_per_rank = planned.num_max_tokens_per_rank;
  fresh_->size = planned.size;
  fresh_->recv_src_metadata = make_like(planned.recv_src_metadata);
  const Shape pairs{request_.num_tokens, request_.shape.num_topk};
  fresh_->topk_idx = device_.make_result(pairs, {pairs[1], 1}, request_.idx_dtype);
  fresh_->dst_buffer_slot_idx = device_.make_result(pairs, {pairs[1], 1}, DType::kInt32);
  result_.handle = DispatchHandle(fresh_);
  if (!defers_counts()) fill_handle();
}

void StagedDispatch::fill_handle() {
  fresh_->receive = planned().receive;
  fresh_->num_dropped_tokens = planned().num_dropped_tokens;
  fresh_->is_planned = true;
}

Tensor StagedDispatch::make_like(const Tensor& on_host) {
  if (!on_host) return {};
  return device_.make_result(on_host.shape(), strides_of(on_host), on_host.dtype());
}

void StagedDispatch::make_outputs() {
  result_.x = make_like(on_host_.x);
  result_.sf = make_like(on_host_.sf);
  result_.topk_idx = make_like(on_host_.topk_idx);
  result_.topk_weights = make_like(on_host_.topk_weights);
}

// Without host sync outputs have room for more rows than have arrived, which stay where they are.
void StagedDispatch::finish() {
  if (on_host_.event) on_host_.event.wait();
  const ReceiveLayout& receive = planned().receive;
  const int num_rows = receive.num_rows(planned().shape.do_expand);
  store_rows(on_host_.x, result_.x, num_rows);
  store_scales(num_rows);
  store_rows(on_host_.topk_idx, result_.topk_idx, num_rows);
  store_rows(on_host_.topk_weights, result_.topk_weights, num_rows);
  store(staged_.cumulative_local_expert_recv_stats, args_.cumulative_local_expert_recv_stats);
  const Tensor slots = fresh_ ? on_host_.handle.dst_buffer_slot_idx() : Tensor();
  if (fresh_) {
    store_rows(planned().recv_src_metadata, fresh_->recv_src_metadata, receive.num_recv_tokens);
    store(planned().topk_idx, fresh_->topk_idx);
    store(slots, fresh_->dst_buffer_slot_idx);
  }
  device_.finish_stores();
  if (!fresh_) return;
  if (defers_counts()) fill_handle();
  fresh_->rows_have_arrived = true;
}

void StagedDispatch::store(const Tensor& on_host, const Tensor& on_device) {
  if (on_host) store_rows(on_host, on_device, on_host.size(0));
}

void StagedDispatch::store_rows(const Tensor& on_host, const Tensor& on_device, std::int64_t num_rows) {
  if (!on_host) return;
  device_.store(bytes_of(on_host), on_device.data(), on_host.rows(0, num_rows).num_bytes());
}

// By columns, they lie among those of rows that have not arrived.
void StagedDispatch::store_scales(std::int64_t num_rows) {
  const Tensor& sf = on_host_.sf;
  if (!sf || num_rows == 0) return;
  const std::int64_t num_elements = (num_rows - 1) * sf.stride(0) + (sf.size(1) - 1) * sf.stride(1) + 1;
  device_.store(bytes_of(sf), result_.sf.data(),
                static_cast<std::size_t>(num_elements) * size_of(sf.dtype()));
}

}  // namespace flexep
