// SPDX-License-Identifier: Apache-2.0
#include "moe/elastic_backend.h"

#include <numeric>
#include <utility>

#include "moe/compute_device.h"

namespace flexep::moe {
// Megatron's rule: only an asynchronous operation whose outputs are the communication's own has a moment from
// which it waits for nothing else that the caller does.
Event ElasticBackend::start_of(const AsyncOptions& options) const {
  return options.async_finish && options.allocate_on_comm_stream ? group_->compute().capture() : Event();
}

Tokens ElasticBackend::send(const Tokens& tokens, const Tensor& topk_idx, int max_recv_tokens,
                            const AsyncOptions& options) {
  // Probabilities travel in fp32; double precision goes all the way only when the rows are double too.
  const DType probs_dtype = tokens.probs.dtype();
  const bool is_double = tokens.hidden.dtype() == DType::kFloat64;
  sent_ = {.probs_are_hosts = tokens.probs.device().is_host(),
           .probs_dtype = probs_dtype,
           .weight_dtype = is_double ? probs_dtype : DType::kFloat32,
           .dispatch = options,
           .combine = {}};
  const ComputeDevice& device = group_->compute();
  const bool has_gaps = rows_->do_expand() && rows_->expert_alignment() > 1;
  const auto recv = group_->buffer().dispatch(
      {.x = tokens.hidden,
       .topk_idx = device.from_host(topk_idx),
       .topk_weights = device.cast(device.from_host(tokens.probs), sent_.weight_dtype),
       .num_experts = num_virtual_experts(),
       .expert_alignment = rows_->expert_alignment(),
       .num_sms = config_.flex_dispatcher_num_sms(),
       .do_expand = rows_->do_expand(),
       .do_zero_padding = has_gaps,
       .max_recv_tokens = max_recv_tokens,
       .async_with_compute_stream = options.async_finish,
       .previous_event = start_of(options),
       .allocate_on_comm_stream = options.allocate_on_comm_stream});
  in_flight_ = recv.event;
  received_ = {
      .handle = recv.handle, .topk_idx = recv.topk_idx, .shape = recv.x.shape(), .dtype = recv.x.dtype()};
  return {.hidden = recv.x, .probs = recv.topk_weights};
}

// From here on the handle says how wide the kernels are: num_sms as the dispatch resolved it, not the option
// again.

TokenGradients ElasticBackend::dispatch_backward(const TokenGradients& received) {
  const AsyncOptions& options = sent_.dispatch;
  const ComputeDevice& device = group_->compute();
  const auto sums = group_->buffer().combine({.x = received.hidden,
                                              .handle = received_.handle,
                                              .topk_weights = device.cast(received.probs, sent_.weight_dtype),
                                              .async_with_compute_stream = options.async_finish,
                                              .previous_event = start_of(options),
                                              .allocate_on_comm_stream = options.allocate_on_comm_stream});
  in_flight_ = sums.event;
  if (!sent_.probs_are_hosts || group_->device().is_host())
    return {.hidden = sums.x, .probs = sums.topk_weights};
  wait();
  return {.hidden = sums.x, .probs = device.to_host(sums.topk_weights)};
}

Tensor ElasticBackend::combine(const Tensor& received, const AsyncOptions& options) {
  sent_.combine = options;
  const auto sums = group_->buffer().combine({.x = received,
                                              .handle = received_.handle,
                                              .async_with_compute_stream = options.async_finish,
                                              .previous_event = start_of(options),
                                              .allocate_on_comm_stream = options.allocate_on_comm_stream});
  in_flight_ = sums.event;
  return sums.x;
}

Gradient<Tensor> ElasticBackend::combine_backward(const Gradient<Tensor>& sums) {
  const AsyncOptions& options = sent_.combine;
  const auto recv = group_->buffer().dispatch({.x = sums,
                                               .handle = received_.handle,
                                               .async_with_compute_stream = options.async_finish,
                                               .previous_event = start_of(options),
                                               .allocate_on_comm_stream = options.allocate_on_comm_stream});
  in_flight_ = recv.event;
  return recv.x;
}

GroupedTokens ElasticBackend::permute(const Tokens& received) {
  GroupedTokens grouped = rows_->permute(received_, received);
  grouped.tokens.probs = group_->compute().cast(grouped.tokens.probs, probs_dtype());
  return grouped;
}

TokenGradients ElasticBackend::permute_backward(const TokenGradients& permuted) {
  return rows_->permute_backward(received_, permuted);
}

Tensor ElasticBackend::unpermute(const Tensor& permuted) {
  return rows_->unpermute(received_, permuted);
}

Gradient<Tensor> ElasticBackend::unpermute_backward(const Gradient<Tensor>& received) {
  return rows_->unpermute_backward(received_, received);
}

void ElasticBackend::wait() {
  if (const Event event = std::exchange(in_flight_, {})) event.wait();
}

Tensor ElasticBackend::empty_expert_rows() {
  return rows_->empty_expert_rows(received_);
}

void ElasticBackend::reset() {
  in_flight_ = {};
  received_ = {};
  sent_ = {};
  rows_->reset();
}

std::int64_t ElasticBackend::num_dropped_pairs() const {
  const auto dropped = received_.handle.num_dropped_tokens();
  return std::accumulate(dropped.begin(), dropped.end(), std::int64_t{0});
}

}  // namespace flexep::moe
