// SPDX-License-Identifier: Apache-2.0
#include "core/dispatch_operation.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "common/check.h"
#include "routing/drops.h"
#include "routing/routing_counts.h"

namespace flexep {
namespace {

// So that the parts of a region become blocks of their own.
static_assert(OutputLayout::kAlignment == Arena::kGranularity);

TopkIds view_of(const Tensor& ids) {
  return {.ids = ids.values<std::int64_t>(),
          .num_tokens = static_cast<int>(ids.size(0)),
          .num_topk = static_cast<int>(ids.size(1))};
}

// The ids as int64, contiguous; the tensor itself where it is that already.
Tensor as_int64(const Tensor& topk_idx) {
  if (topk_idx.dtype() == DType::kInt64) return topk_idx.contiguous();
  const Tensor narrow = topk_idx.contiguous();
  Tensor wide = Tensor::empty(narrow.shape(), DType::kInt64);
  std::ranges::copy(narrow.values<std::int32_t>(), wide.data<std::int64_t>());
  return wide;
}

Tensor as_dtype(const Tensor& ids, DType dtype) {
  if (dtype == DType::kInt64) return ids;
  Tensor narrow = Tensor::empty(ids.shape(), dtype);
  std::ranges::transform(ids.values<std::int64_t>(), narrow.data<std::int32_t>(),
                         [](std::int64_t id) { return static_cast<std::int32_t>(id); });
  return narrow;
}

std::vector<std::int32_t> limits_of(const ExchangeResult& agreed) {
  std::vector<std::int32_t> limits;
  for (const auto& header : agreed.headers) limits.push_back(header.max_recv_tokens);
  return limits;
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
  if (layout.sf_bytes > 0) {
    target.sf = reinterpret_cast<std::uint32_t*>(region + layout.sf_offset());
    target.sf_row_stride = layout.sf_row_stride;
    target.sf_pack_stride = layout.sf_pack_stride;
  }
  if (layout.topk_idx_bytes > 0) target.topk_idx = region + layout.topk_idx_offset();
  if (layout.topk_weights_bytes > 0) target.topk_weights = region + layout.topk_weights_offset();
  if (layout.metadata_bytes > 0)
    target.metadata = reinterpret_cast<std::int32_t*>(region + layout.metadata_offset());
  return target;
}

}  // namespace

void DispatchOperation::agree_and_place() {
  ExchangeResult agreed = agree();
  if (args_.handle) {
    result_.handle = args_.handle;
  } else {
    const auto limits = limits_of(agreed);
    if (exceeds_limits(agreed.counts, request_.shape, limits)) agreed = drop(agreed, limits);
    attempt([&] { plan(agreed); });
  }
  // Everybody knows everybody's counts, so all agree without a word whether a second exchange is needed.
  if (!failure_ && !all_fit(agreed)) agreed = grow(agreed);
  attempt([&] {
    find_targets(agreed);
    make_outputs();
  });
  if (failure_) move();
}

// Runs a step that other ranks do not wait for. What it throws, they hear in the next exchange.
template <typename Step>
void DispatchOperation::attempt(Step step) {
  if (failure_) return;
  try {
    step();
  } catch (...) {
    failure_ = std::current_exception();
  }
}

ExchangeResult DispatchOperation::agree() {
  std::optional<RoutingCounts> counts;
  return engine_.agreement.exchange({"dispatch", sequence_number_}, [&] {
    if (args_.previous_event) args_.previous_event.wait();
    request_ = resolve_dispatch(args_, engine_.context);
    if (args_.handle) {
      require_rows_have_arrived(args_.handle, engine_.rank());
    } else {
      ids_ = as_int64(args_.topk_idx);
      counts = count_routing(view_of(ids_), request_.shape, engine_.rank());
    }
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
  header[Field::kTopkIdx] = static_cast<std::int64_t>(request_.idx_dtype);
  header[Field::kExpertAlignment] = request_.shape.expert_alignment;
  header[Field::kDoExpand] = request_.shape.do_expand;
  header[Field::kDType] = static_cast<std::int64_t>(request_.dtype);
  header[Field::kHidden] = request_.hidden;
  header[Field::kTopkWeights] = optional_field(request_.weight_dtype);
  header[Field::kScales] = optional_field(request_.sf_dtype);
  header[Field::kNumScalePacks] = request_.format.num_sf_packs;
  header[Field::kScalesAreColMajor] = request_.format.sf_is_col_major;
  header[Field::kAllowMultipleReduction] = engine_.config.allow_multiple_reduction;
  header.region = region_.address();
  header.region_bytes = region_.num_bytes();
  header.num_max_tokens_per_rank = request_.num_max_tokens_per_rank;
  header.max_recv_tokens = args_.max_recv_tokens;
  return message;
}

// Takes the pairs that do not fit out of the ids, as if they had never been there, and exchanges counts anew.
ExchangeResult DispatchOperation::drop(const ExchangeResult& agreed, std::span<const std::int32_t> limits) {
  std::optional<RoutingCounts> counts;
  return engine_.agreement.exchange({"dispatch: drops", sequence_number_}, [&] {
    num_routed_tokens_ =
        plan_receive(agreed.counts, request_.shape, engine_.rank()).num_recv_tokens_per_expert;
    ids_ = ids_.clone();
    drop_pairs(ids_.values<std::int64_t>(), agreed.counts, request_.shape, limits, engine_.rank());
    counts = count_routing(view_of(ids_), request_.shape, engine_.rank());
    return announce(counts->block());
  });
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
  state->sf_is_col_major = request_.format.sf_is_col_major;
  keep_ids(*state);
  // Receivers first: this checks that all rows fit 31 bits, on which senders rely.
  state->receive = plan_receive(agreed.counts, request_.shape, engine_.rank());
  state->receive_sizes = plan_receive_sizes(agreed.counts, request_.shape);
  state->send = plan_send(view_of(ids_), agreed.counts, request_.shape, engine_.rank());
  state->num_dropped_tokens.assign(static_cast<std::size_t>(request_.shape.num_local_experts()), 0);
  for (std::size_t i = 0; i < num_routed_tokens_.size(); ++i) {
    state->num_dropped_tokens[i] = num_routed_tokens_[i] - state->receive.num_recv_tokens_per_expert[i];
  }
  result_.handle = DispatchHandle(fresh_state_);
}

void DispatchOperation::keep_ids(DispatchState& state) const {
  const bool are_the_callers = ids_.data() == args_.topk_idx.data();
  state.ids = are_the_callers && args_.do_handle_copy ? ids_.clone() : ids_;
  state.topk_idx = as_dtype(state.ids, request_.idx_dtype);
}

std::size_t DispatchOperation::bytes_needed(int rank) const {
  return OutputLayout(request_.format, size_of(rank)).num_bytes();
}

bool DispatchOperation::all_fit(const ExchangeResult& agreed) const {
  for (int rank = 0; rank < engine_.num_ranks(); ++rank) {
    if (bytes_needed(rank) > agreed.headers[static_cast<std::size_t>(rank)].region_bytes) return false;
  }
  return true;
}

// A rank whose output does not fit the region that it announced announces a new one.
ExchangeResult DispatchOperation::grow(const ExchangeResult& agreed) {
  return engine_.agreement.exchange({"dispatch: grow", sequence_number_}, [&] {
    const std::size_t needed = bytes_needed(engine_.rank());
    if (needed > agreed.headers[static_cast<std::size_t>(engine_.rank())].region_bytes) {
      region_ = {};  // first: what it holds may have to go, or be part of the new one
      region_ = engine_.arena->reserve(needed);
    }
    ExchangeMessage message;
    message.header.region = region_.address();
    return message;
  });
}

void DispatchOperation::find_targets(const ExchangeResult& agreed) {
  targets_.resize(agreed.headers.size());
  for (int rank = 0; rank < engine_.num_ranks(); ++rank) {
    const auto r = static_cast<std::size_t>(rank);
    if (state().send.num_rows_per_rank[r] == 0) continue;
    std::byte* region =
        rank == engine_.rank() ? region_.data() : engine_.peers.resolve(rank, agreed.headers[r].region);
    targets_[r] = target_in(request_.format, size_of(rank), region);
  }
}

void DispatchOperation::make_outputs() {
  const ReceiveSize& size = size_of(engine_.rank());
  const OutputLayout layout(request_.format, size);
  const int num_rows = size.num_rows(request_.format.do_expand);
  const int num_topk = request_.format.num_topk;
  result_.x = make_tensor(region_.take_front(layout.x_bytes), {num_rows, request_.hidden}, request_.dtype);
  if (request_.sf_dtype) {
    const Shape strides{layout.sf_row_stride, layout.sf_pack_stride};
    result_.sf = make_tensor(region_.take_front(layout.sf_bytes), {num_rows, request_.format.num_sf_packs},
                             strides, *request_.sf_dtype);
  }
  if (!request_.format.do_expand) {
    result_.topk_idx =
        make_tensor(region_.take_front(layout.topk_idx_bytes), {num_rows, num_topk}, request_.idx_dtype);
  }
  if (request_.weight_dtype) {
    const Shape shape = request_.format.do_expand ? Shape{num_rows} : Shape{num_rows, num_topk};
    result_.topk_weights =
        make_tensor(region_.take_front(layout.topk_weights_bytes), shape, *request_.weight_dtype);
  }
  if (request_.format.has_metadata) {
    fresh_state_->recv_src_metadata = make_tensor(region_.take_front(layout.metadata_bytes),
                                                  {size.num_recv_tokens, num_topk + 2}, DType::kInt32);
  }
  region_ = {};
}

void DispatchOperation::move() {
  engine_.agreement.exchange({"dispatch: rows", sequence_number_}, [&] {
    if (failure_) std::rethrow_exception(failure_);
    if (args_.previous_event_before_epilogue) args_.previous_event_before_epilogue.wait();
    push();
    if (request_.do_zero_padding) zero_gaps();
    return ExchangeMessage{};
  });
  if (fresh_state_) fresh_state_->rows_have_arrived = true;
  add_stats();
  engine_.count([](BufferCounters& totals) { ++totals.num_dispatches; });
}

void DispatchOperation::push() {
  const SendPlan& send = state().send;
  const std::size_t row_bytes = request_.format.row_bytes;
  const Tensor weights = args_.topk_weights.contiguous();
  engine_.backend->push(
      {.plan = &send,
       .do_expand = request_.shape.do_expand,
       .rank = engine_.rank(),
       .num_local_experts = request_.shape.num_local_experts(),
       .num_max_tokens_per_rank = state().num_max_tokens_per_rank,
       .x = static_cast<const std::byte*>(args_.x.data()),
       .x_stride = static_cast<std::size_t>(args_.x.stride(0)) * flexep::size_of(request_.dtype),
       .row_bytes = row_bytes,
       .sf = static_cast<const std::uint32_t*>(args_.sf.data()),
       .sf_row_stride = args_.sf.stride(0),
       .sf_pack_stride = args_.sf.stride(1),
       .num_sf_packs = request_.format.num_sf_packs,
       .topk_idx = state().ids.values<std::int64_t>(),
       .idx_bytes = request_.format.idx_bytes,
       .topk_weights = static_cast<const std::byte*>(weights.data()),
       .weight_bytes = request_.format.weight_bytes,
       .targets = targets_},
      request_.num_sms);
  engine_.count_rows(send.num_rows_per_rank, row_bytes);
  engine_.count([&](BufferCounters& totals) {
    totals.bytes_read += total_bytes(request_.num_tokens, row_bytes);
    for (const int num_rows : send.num_rows_per_rank)
      totals.bytes_written += total_bytes(num_rows, row_bytes);
  });
}

void DispatchOperation::zero_gaps() const {
  const auto zero = [&](void* rows, std::size_t row_bytes, std::size_t row_stride) {
    engine_.backend->zero_gaps({&state().receive, static_cast<std::byte*>(rows), row_bytes, row_stride},
                               request_.num_sms);
  };
  zero(result_.x.data(), request_.format.row_bytes, request_.format.row_bytes);
  if (result_.topk_weights)
    zero(result_.topk_weights.data(), request_.format.weight_bytes, request_.format.weight_bytes);
  if (!result_.sf) return;
  constexpr std::size_t kBytes = OutputLayout::kSfBytes;
  const auto num_packs = static_cast<std::size_t>(request_.format.num_sf_packs);
  const auto row_stride = static_cast<std::size_t>(result_.sf.stride(0)) * kBytes;
  if (request_.format.sf_is_col_major) {
    const auto column_bytes = static_cast<std::size_t>(result_.sf.stride(1)) * kBytes;
    auto* columns = static_cast<std::byte*>(result_.sf.data());
    for (std::size_t pack = 0; pack < num_packs; ++pack)
      zero(columns + pack * column_bytes, kBytes, row_stride);
  } else {
    zero(result_.sf.data(), num_packs * kBytes, row_stride);
  }
}

void DispatchOperation::add_stats() const {
  if (!args_.cumulative_local_expert_recv_stats) return;
  const auto totals = args_.cumulative_local_expert_recv_stats.values<std::int32_t>();
  const auto& received = state().receive.num_recv_tokens_per_expert;
  const auto& dropped = state().num_dropped_tokens;
  for (std::size_t i = 0; i < totals.size(); ++i) totals[i] += received[i] + dropped[i];
}

}  // namespace flexep
