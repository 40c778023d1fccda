// SPDX-License-Identifier: Apache-2.0
#include "core/dispatch_operation.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "common/check.h"
#include "routing/routing_counts.h"

namespace flexep {
namespace {

TopkIds ids_of(const Tensor& topk_idx) {
  return {.ids = topk_idx.values<std::int64_t>(),
          .num_tokens = static_cast<int>(topk_idx.size(0)),
          .num_topk = static_cast<int>(topk_idx.size(1))};
}

std::vector<ReceiveSize> sizes_of(AllCounts counts, const RoutingShape& shape, const ReceiveLayout& mine,
                                  int rank) {
  std::vector<ReceiveSize> sizes;
  for (int destination = 0; destination < shape.num_ranks; ++destination) {
    const ReceiveLayout layout = destination == rank ? mine : plan_receive(counts, shape, destination);
    sizes.push_back({layout.num_recv_tokens, layout.num_expanded_tokens});
  }
  return sizes;
}

int agree_on_num_max_tokens(const ExchangeResult& agreed) {
  int num_max_tokens = 0;
  for (const auto& header : agreed.headers)
    num_max_tokens = std::max(num_max_tokens, header.num_max_tokens_per_rank);
  require_argument(std::int64_t{num_max_tokens} * static_cast<std::int64_t>(agreed.headers.size()) <=
                       std::numeric_limits<std::int32_t>::max(),
                   "num_max_tokens_per_rank",
                   "{} ranks of at most {} tokens have no 32-bit global token index", agreed.headers.size(),
                   num_max_tokens);
  return num_max_tokens;
}

// The parts of an output that lies at `region`.
PushTarget target_in(const OutputFormat& format, const ReceiveSize& size, std::byte* region) {
  const OutputLayout layout(format, size);
  PushTarget target{.x = region};
  if (layout.topk_idx_bytes > 0)
    target.topk_idx = reinterpret_cast<std::int64_t*>(region + layout.topk_idx_offset());
  if (layout.topk_weights_bytes > 0) target.topk_weights = region + layout.topk_weights_offset();
  if (layout.metadata_bytes > 0)
    target.metadata = reinterpret_cast<std::int32_t*>(region + layout.metadata_offset());
  return target;
}

}  // namespace

void DispatchOperation::agree_and_place() {
  const ExchangeResult agreed = agree();
  if (args_.handle) {
    result_.handle = args_.handle;
  } else {
    plan(agreed);
  }
  place(agreed);
  make_outputs();
}

ExchangeResult DispatchOperation::agree() {
  std::optional<RoutingCounts> counts;
  return engine_.agreement.exchange({"dispatch", sequence_number_}, [&] {
    if (args_.previous_event) args_.previous_event.wait();
    request_ = resolve_dispatch(args_, engine_.context);
    if (!args_.handle) counts = count_routing(ids_of(args_.topk_idx), request_.shape, engine_.rank());
    region_ = engine_.arena->reserve_largest();
    return announce(counts ? counts->block() : std::span<const std::int32_t>());
  });
}

ExchangeMessage DispatchOperation::announce(std::span<const std::int32_t> counts) const {
  ExchangeMessage message{.header = {}, .counts = counts};
  ExchangeHeader& header = message.header;
  header[Field::kHandle] = args_.handle ? args_.handle.state().id : 0;
  header[Field::kNumExperts] = request_.shape.num_experts;
  header[Field::kNumTopk] = request_.shape.num_topk;
  header[Field::kExpertAlignment] = request_.shape.expert_alignment;
  header[Field::kDoExpand] = request_.shape.do_expand;
  header[Field::kDType] = static_cast<std::int64_t>(request_.dtype);
  header[Field::kHidden] = request_.hidden;
  header[Field::kTopkWeights] = weights_field(request_.weight_dtype);
  header[Field::kAllowMultipleReduction] = engine_.config.allow_multiple_reduction;
  header.region = region_.address();
  header.region_bytes = region_.num_bytes();
  header.num_max_tokens_per_rank = request_.num_max_tokens_per_rank;
  return message;
}

void DispatchOperation::plan(const ExchangeResult& agreed) {
  fresh_state_ = std::make_shared<DispatchState>();
  DispatchState* state = fresh_state_.get();
  state->id = engine_.id + static_cast<std::int64_t>(sequence_number_);
  state->rank = engine_.rank();
  state->shape = request_.shape;
  state->num_max_tokens_per_rank = agree_on_num_max_tokens(agreed);
  state->num_sms = request_.num_sms;
  state->do_zero_padding = request_.do_zero_padding;
  state->topk_idx = args_.topk_idx.clone();
  state->send = plan_send(ids_of(args_.topk_idx), agreed.counts, request_.shape, engine_.rank());
  state->receive = plan_receive(agreed.counts, request_.shape, engine_.rank());
  state->receive_sizes = sizes_of(agreed.counts, request_.shape, state->receive, engine_.rank());
  result_.handle = DispatchHandle(fresh_state_);
}

void DispatchOperation::place(const ExchangeResult& agreed) {
  const auto bytes_needed = [&](int rank) {
    return OutputLayout(request_.format, size_of(rank)).num_bytes();
  };
  const auto fits = [&](int rank) {
    return bytes_needed(rank) <= agreed.headers[static_cast<std::size_t>(rank)].region_bytes;
  };
  bool all_fit = true;
  for (int rank = 0; rank < engine_.num_ranks(); ++rank) all_fit = all_fit && fits(rank);

  // Everybody knows everybody's counts, so all agree without a word whether a second exchange is needed.
  std::vector<ExchangeHeader> headers = agreed.headers;
  if (!all_fit) {
    const ExchangeResult regrown = engine_.agreement.exchange({"dispatch: grow", sequence_number_}, [&] {
      if (!fits(engine_.rank())) region_ = engine_.arena->reserve(bytes_needed(engine_.rank()));
      ExchangeMessage message;
      message.header.region = region_.address();
      return message;
    });
    headers = regrown.headers;
  }

  targets_.resize(headers.size());
  for (int rank = 0; rank < engine_.num_ranks(); ++rank) {
    const auto r = static_cast<std::size_t>(rank);
    if (state().send.num_rows_per_rank[r] == 0) continue;
    std::byte* region =
        rank == engine_.rank() ? region_.data() : engine_.peers.resolve(rank, headers[r].region);
    targets_[r] = target_in(request_.format, size_of(rank), region);
  }
}

void DispatchOperation::make_outputs() {
  const ReceiveSize& size = size_of(engine_.rank());
  const OutputLayout layout(request_.format, size);
  const int num_rows = size.num_rows(request_.format.do_expand);
  const int num_topk = request_.format.num_topk;
  result_.x = make_tensor(region_.take_front(layout.x_bytes), {num_rows, request_.hidden}, request_.dtype);
  if (!request_.format.do_expand) {
    result_.topk_idx =
        make_tensor(region_.take_front(layout.topk_idx_bytes), {num_rows, num_topk}, DType::kInt64);
  }
  if (request_.weight_dtype) {
    const Shape shape = request_.format.do_expand ? Shape{num_rows} : Shape{num_rows, num_topk};
    result_.topk_weights =
        make_tensor(region_.take_front(layout.topk_weights_bytes), shape, *request_.weight_dtype);
  }
  if (request_.format.has_metadata) {
    // The handle is this operation's own until it is returned.
    auto& own_state = const_cast<DispatchState&>(state());
    own_state.recv_src_metadata = make_tensor(region_.take_front(layout.metadata_bytes),
                                              {size.num_recv_tokens, num_topk + 2}, DType::kInt32);
  }
  region_ = {};
}

void DispatchOperation::move() {
  engine_.agreement.exchange({"dispatch: rows", sequence_number_}, [&] {
    if (args_.previous_event_before_epilogue) args_.previous_event_before_epilogue.wait();
    push();
    if (request_.do_zero_padding) zero_gaps();
    return ExchangeMessage{};
  });
  engine_.count([](BufferCounters& totals) { ++totals.num_dispatches; });
}

void DispatchOperation::push() {
  const SendPlan& send = state().send;
  const std::size_t row_bytes = request_.format.row_bytes;
  engine_.backend->push({.plan = &send,
                         .do_expand = request_.shape.do_expand,
                         .rank = engine_.rank(),
                         .num_local_experts = request_.shape.num_local_experts(),
                         .num_max_tokens_per_rank = state().num_max_tokens_per_rank,
                         .x = static_cast<const std::byte*>(args_.x.data()),
                         .row_bytes = row_bytes,
                         .topk_idx = state().topk_idx.values<std::int64_t>(),
                         .topk_weights = static_cast<const std::byte*>(args_.topk_weights.data()),
                         .weight_bytes = request_.format.weight_bytes,
                         .targets = targets_},
                        request_.num_sms);
  engine_.count_rows(send.num_rows_per_rank, row_bytes);
  engine_.count([&](BufferCounters& totals) {
    const auto bytes_of_rows = [&](int num_rows) {
      return std::int64_t{num_rows} * static_cast<std::int64_t>(row_bytes);
    };
    totals.bytes_read += bytes_of_rows(request_.num_tokens);
    for (const int num_rows : send.num_rows_per_rank) totals.bytes_written += bytes_of_rows(num_rows);
  });
}

void DispatchOperation::zero_gaps() const {
  const auto zero = [&](const Tensor& tensor, std::size_t row_bytes) {
    if (!tensor) return;
    engine_.backend->zero_gaps({&state().receive, static_cast<std::byte*>(tensor.data()), row_bytes},
                               request_.num_sms);
  };
  zero(result_.x, request_.format.row_bytes);
  zero(result_.topk_weights, request_.format.weight_bytes);
}

}  // namespace flexep
