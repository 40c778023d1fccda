// SPDX-License-Identifier: Apache-2.0
//
// Dispatch, phase by phase.
#include <algorithm>
#include <limits>

#include "common/check.h"
#include "core/elastic_buffer_impl.h"
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

}  // namespace

DispatchResult ElasticBuffer::Impl::dispatch(const DispatchArgs& args) {
  const std::uint64_t sequence_number = ++sequence_number_;
  DispatchRequest request;
  Arena::Block region;
  std::optional<RoutingCounts> counts;

  // Agree: everybody's routing counts, and where everybody's output would go.
  const ExchangeResult agreed = agreement_.exchange({"dispatch", sequence_number}, [&] {
    request = resolve_dispatch(args, context_);
    if (!args.handle) counts = count_routing(ids_of(args.topk_idx), request.shape, rank());
    region = arena_->reserve_largest();
    return announce_dispatch(request, args, region,
                             counts ? counts->block() : std::span<const std::int32_t>());
  });

  // Plan: every slot, from the counts alone.
  DispatchHandle handle = args.handle;
  std::shared_ptr<DispatchState> state;
  if (!handle) {
    state = plan_dispatch(request, args, agreed);
    handle = DispatchHandle(state);
  }

  // Place: the outputs of all ranks, as this rank addresses them.
  const auto targets = place_outputs(request, handle.state(), agreed, region);
  Tensor metadata;
  DispatchResult result = make_outputs(request, handle.state(), std::move(region), metadata);
  if (state) state->recv_src_metadata = metadata;

  // Move, and wait until everybody's rows are here.
  push_rows(request, args, handle.state(), result, targets);
  agreement_.complete({"dispatch: rows", sequence_number});

  ++counters_.num_dispatches;
  result.handle = std::move(handle);
  return result;
}

ExchangeMessage ElasticBuffer::Impl::announce_dispatch(const DispatchRequest& request,
                                                       const DispatchArgs& args, const Arena::Block& region,
                                                       std::span<const std::int32_t> counts) const {
  ExchangeMessage message{.header = {}, .counts = counts};
  ExchangeHeader& header = message.header;
  header[Field::kHandle] = args.handle ? args.handle.state().id : 0;
  header[Field::kNumExperts] = request.shape.num_experts;
  header[Field::kNumTopk] = request.shape.num_topk;
  header[Field::kExpertAlignment] = request.shape.expert_alignment;
  header[Field::kDoExpand] = request.shape.do_expand;
  header[Field::kDType] = static_cast<std::int64_t>(request.dtype);
  header[Field::kHidden] = request.hidden;
  header[Field::kTopkWeights] =
      request.weight_dtype ? 1 + static_cast<std::int64_t>(*request.weight_dtype) : 0;
  header[Field::kAllowMultipleReduction] = config_.allow_multiple_reduction;
  header.region = region.address();
  header.region_bytes = region.num_bytes();
  header.num_max_tokens_per_rank = request.num_max_tokens_per_rank;
  return message;
}

std::shared_ptr<DispatchState> ElasticBuffer::Impl::plan_dispatch(const DispatchRequest& request,
                                                                  const DispatchArgs& args,
                                                                  const ExchangeResult& agreed) const {
  auto state = std::make_shared<DispatchState>();
  state->id = id_ + static_cast<std::int64_t>(sequence_number_);
  state->rank = rank();
  state->shape = request.shape;
  state->num_max_tokens_per_rank = agree_on_num_max_tokens(agreed);
  state->num_sms = request.num_sms;
  state->do_zero_padding = request.do_zero_padding;
  state->topk_idx = args.topk_idx.clone();
  state->send = plan_send(ids_of(args.topk_idx), agreed.counts, request.shape, rank());
  state->receive = plan_receive(agreed.counts, request.shape, rank());
  state->receive_sizes = sizes_of(agreed.counts, request.shape, state->receive, rank());
  return state;
}

std::vector<PushTarget> ElasticBuffer::Impl::place_outputs(const DispatchRequest& request,
                                                           const DispatchState& state,
                                                           const ExchangeResult& agreed,
                                                           Arena::Block& region) {
  const auto bytes_needed = [&](int rank) {
    return OutputLayout(request.format, state.receive_sizes[static_cast<std::size_t>(rank)]).num_bytes();
  };
  const auto fits = [&](int rank) {
    return bytes_needed(rank) <= agreed.headers[static_cast<std::size_t>(rank)].region_bytes;
  };
  bool all_fit = true;
  for (int rank = 0; rank < num_ranks(); ++rank) all_fit = all_fit && fits(rank);

  // Everybody knows everybody's counts, so all agree without a word whether a second exchange is needed.
  std::vector<ExchangeHeader> headers = agreed.headers;
  if (!all_fit) {
    const ExchangeResult regrown = agreement_.exchange({"dispatch: grow", sequence_number_}, [&] {
      if (!fits(rank())) region = arena_->reserve(bytes_needed(rank()));
      ExchangeMessage message;
      message.header.region = region.address();
      return message;
    });
    headers = regrown.headers;
  }

  std::vector<PushTarget> targets(static_cast<std::size_t>(num_ranks()));
  for (int rank = 0; rank < num_ranks(); ++rank) {
    const auto r = static_cast<std::size_t>(rank);
    if (state.send.num_rows_per_rank[r] == 0) continue;
    std::byte* memory = rank == this->rank() ? region.data() : peers_.resolve(rank, headers[r].region);
    targets[r] = target_in(request.format, state.receive_sizes[r], memory);
  }
  return targets;
}

PushTarget ElasticBuffer::Impl::target_in(const OutputFormat& format, const ReceiveSize& size,
                                          std::byte* region) const {
  const OutputLayout layout(format, size);
  PushTarget target{.x = region};
  if (layout.topk_idx_bytes > 0)
    target.topk_idx = reinterpret_cast<std::int64_t*>(region + layout.topk_idx_offset());
  if (layout.topk_weights_bytes > 0) target.topk_weights = region + layout.topk_weights_offset();
  if (layout.metadata_bytes > 0)
    target.metadata = reinterpret_cast<std::int32_t*>(region + layout.metadata_offset());
  return target;
}

DispatchResult ElasticBuffer::Impl::make_outputs(const DispatchRequest& request, const DispatchState& state,
                                                 Arena::Block region, Tensor& metadata) const {
  const ReceiveSize& size = state.receive_sizes[static_cast<std::size_t>(rank())];
  const OutputLayout layout(request.format, size);
  const int num_rows = size.num_rows(request.format.do_expand);
  const int num_topk = request.format.num_topk;
  DispatchResult result;
  result.x = make_tensor(region.take_front(layout.x_bytes), {num_rows, request.hidden}, request.dtype);
  if (!request.format.do_expand) {
    result.topk_idx =
        make_tensor(region.take_front(layout.topk_idx_bytes), {num_rows, num_topk}, DType::kInt64);
  }
  if (request.weight_dtype) {
    const Shape shape = request.format.do_expand ? Shape{num_rows} : Shape{num_rows, num_topk};
    result.topk_weights =
        make_tensor(region.take_front(layout.topk_weights_bytes), shape, *request.weight_dtype);
  }
  if (request.format.has_metadata) {
    metadata = make_tensor(region.take_front(layout.metadata_bytes), {size.num_recv_tokens, num_topk + 2},
                           DType::kInt32);
  }
  return result;
}

void ElasticBuffer::Impl::push_rows(const DispatchRequest& request, const DispatchArgs& args,
                                    const DispatchState& state, const DispatchResult& result,
                                    const std::vector<PushTarget>& targets) {
  const std::size_t row_bytes = request.format.row_bytes;
  const PushJob job{.plan = &state.send,
                    .do_expand = request.shape.do_expand,
                    .rank = rank(),
                    .num_local_experts = request.shape.num_local_experts(),
                    .num_max_tokens_per_rank = state.num_max_tokens_per_rank,
                    .x = static_cast<const std::byte*>(args.x.data()),
                    .row_bytes = row_bytes,
                    .topk_idx = state.topk_idx.values<std::int64_t>(),
                    .topk_weights = static_cast<const std::byte*>(args.topk_weights.data()),
                    .weight_bytes = request.format.weight_bytes,
                    .targets = targets};
  backend_->push(job, request.num_sms);
  if (request.do_zero_padding) {
    const auto zero = [&](const Tensor& tensor, std::size_t bytes) {
      if (!tensor) return;
      backend_->zero_gaps({&state.receive, static_cast<std::byte*>(tensor.data()), bytes}, request.num_sms);
    };
    zero(result.x, row_bytes);
    zero(result.topk_weights, request.format.weight_bytes);
  }
  count_rows(state.send.num_rows_per_rank, row_bytes);
  const auto total_bytes = [&](const auto& num_rows) {
    return static_cast<std::int64_t>(num_rows * row_bytes);
  };
  counters_.bytes_read += total_bytes(static_cast<std::size_t>(request.num_tokens));
  for (const auto num_rows : state.send.num_rows_per_rank) {
    counters_.bytes_written += total_bytes(static_cast<std::size_t>(num_rows));
  }
}

}  // namespace flexep
