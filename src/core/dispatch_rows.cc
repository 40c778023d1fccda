// SPDX-License-Identifier: Apache-2.0
//
// A dispatch once every slot is known: where rows go, and their way there.
#include "core/dispatch_crossing.h"
#include "core/dispatch_operation.h"
#include "core/push_target.h"

namespace flexep {
namespace {

// So that the parts of a region become blocks of their own.
static_assert(OutputLayout::kAlignment == Arena::kGranularity);

}  // namespace

std::size_t DispatchOperation::bytes_needed(const ReceiveSize& size) const {
  return OutputLayout(request_.format, size).num_bytes();
}

void DispatchOperation::reserve(Arena::Block block) {
  region_ = {.address = block.address(), .data = block.data(), .num_bytes = block.num_bytes()};
  block_ = std::move(block);
}

bool DispatchOperation::all_fit(const ExchangeResult& agreed) const {
  for (std::size_t rank = 0; rank < agreed.headers.size(); ++rank) {
    if (bytes_needed(state().receive_sizes[rank]) > agreed.headers[rank].region_bytes) return false;
  }
  return true;
}

// Inside a domain everybody knows everybody's counts and regions, so all agree without a word whether another
// exchange is needed. Across domains a fresh dispatch always has it: carriers must know that nobody has
// failed.
bool DispatchOperation::must_place(const ExchangeResult& agreed) const {
  if (engine_.routes().cross_domains()) return fresh_state_ != nullptr;
  return needs_counts() && !failure_ && !all_fit(agreed);
}

// A rank whose output does not fit the region that it announced announces a new one.
ExchangeResult DispatchOperation::place(const ExchangeResult& agreed) {
  return engine_.agreement.exchange({"dispatch: place", sequence_number_}, [&] {
    if (failure_) std::rethrow_exception(failure_);
    prepare_crossing();
    const std::size_t needed = bytes_needed(state().size);
    if (needed > agreed.headers[static_cast<std::size_t>(engine_.rank())].region_bytes) {
      block_ = {};  // first: what it holds may have to go, or be part of the new one
      reserve(engine_.arena->reserve(needed));
    }
    ExchangeMessage message;
    message.header.region = region_.address;
    return message;
  });
}

// Before the last exchange in which a failure can be told without ending the group.
void DispatchOperation::prepare_crossing() {
  if (!engine_.routes().cross_domains()) return;
  if (args_.previous_event_before_epilogue) args_.previous_event_before_epilogue.wait();
  waves_ = plan_dispatch_waves(request_.format, engine_.wave_limits(state().num_max_tokens_per_rank));
  staging_ = engine_.staging.reserve(waves_.num_bytes());
}

void DispatchOperation::find_targets(const ExchangeResult& agreed) {
  targets_.resize(agreed.headers.size());
  for (int rank = 0; rank < engine_.num_ranks(); ++rank) {
    const auto r = static_cast<std::size_t>(rank);
    if (!engine_.routes().is_within(rank)) continue;
    const bool is_carried_to = state().crossing && state().crossing->num_carried_tokens_per_rank[r] > 0;
    if (state().send.num_rows_per_rank[r] == 0 && !is_carried_to) continue;
    std::byte* region =
        rank == engine_.rank() ? region_.data : engine_.peers.resolve(rank, agreed.headers[r].region);
    targets_[r] = target_in(request_.format, state().receive_sizes[r], region);
  }
}

void DispatchOperation::make_outputs() {
  const ReceiveSize& size = state().size;
  const OutputLayout layout(request_.format, size);
  const int num_rows = size.num_rows(request_.format.do_expand);
  const int num_topk = request_.format.num_topk;
  result_.x = make_tensor(block_.take_front(layout.x_bytes), {num_rows, request_.hidden}, request_.dtype);
  if (request_.sf_dtype) {
    const Shape strides{layout.sf_row_stride, layout.sf_pack_stride};
    result_.sf = make_tensor(block_.take_front(layout.sf_bytes), {num_rows, request_.format.num_sf_packs},
                             strides, *request_.sf_dtype);
  }
  if (!request_.format.do_expand) {
    result_.topk_idx =
        make_tensor(block_.take_front(layout.topk_idx_bytes), {num_rows, num_topk}, request_.idx_dtype);
  }
  if (request_.weight_dtype) {
    const Shape shape = request_.format.do_expand ? Shape{num_rows} : Shape{num_rows, num_topk};
    result_.topk_weights =
        make_tensor(block_.take_front(layout.topk_weights_bytes), shape, *request_.weight_dtype);
  }
  if (request_.format.has_metadata) {
    fresh_state_->recv_src_metadata = make_tensor(block_.take_front(layout.metadata_bytes),
                                                  {size.num_recv_tokens, num_topk + 2}, DType::kInt32);
  }
  block_ = {};
}

void DispatchOperation::move() {
  if (engine_.routes().cross_domains()) cross();
  engine_.agreement.conclude({"dispatch: rows", sequence_number_}, [&] {
    if (failure_) std::rethrow_exception(failure_);
    if (!engine_.routes().cross_domains()) {
      if (args_.previous_event_before_epilogue) args_.previous_event_before_epilogue.wait();
      push();
    }
    if (request_.do_zero_padding) zero_gaps();
  });
  complete();
  add_stats();
  engine_.meter.end_dispatch(state().receive.num_recv_tokens_per_expert, state().num_dropped_tokens);
}

// All rows, those that stay inside the domain among them.
void DispatchOperation::cross() {
  std::optional<DispatchCrossing> crossing;
  run_or_break_up(engine_, [&] {
    if (failure_) std::rethrow_exception(failure_);
    crossing.emplace(DispatchCrossing::Job{.backend = engine_.backend.get(),
                                           .messages = &engine_.transport->messages(),
                                           .routes = &engine_.routes(),
                                           .plan = &*state().crossing,
                                           .send = &state().send,
                                           .rows = own_rows(),
                                           .format = request_.format,
                                           .waves = waves_,
                                           .staging = staging_,
                                           .width = request_.num_sms});
    engine_.transport->settle(*crossing, {"dispatch: rows", sequence_number_});
  });
  meter_crossing();
}

// Whoever has the handle may use it from here on.
void DispatchOperation::complete() {
  if (!fresh_state_) return;
  fresh_state_->is_planned = true;
  fresh_state_->rows_have_arrived = true;
}

void DispatchOperation::push() {
  const SendPlan& send = state().send;
  PushJob rows = own_rows();
  rows.plan = &send;
  engine_.backend->push(rows, request_.num_sms);
  const std::int64_t bytes_written =
      engine_.meter.add_rows(send.num_rows_per_rank, send.num_pairs_per_rank, request_.format.row_bytes);
  engine_.meter.add_memory(total_bytes(request_.num_tokens, request_.format.row_bytes), bytes_written);
}

// Without a plan: which of them go where is for the caller to say.
PushJob DispatchOperation::own_rows() {
  weights_ = args_.topk_weights.contiguous();
  return {.do_expand = request_.shape.do_expand,
          .rank = engine_.rank(),
          .src_tokens = {},
          .num_local_experts = request_.shape.num_local_experts(),
          .num_max_tokens_per_rank = state().num_max_tokens_per_rank,
          .x = static_cast<const std::byte*>(args_.x.data()),
          .x_stride = static_cast<std::size_t>(args_.x.stride(0)) * flexep::size_of(request_.dtype),
          .row_bytes = request_.format.row_bytes,
          .sf = static_cast<const std::uint32_t*>(args_.sf.data()),
          .sf_row_stride = args_.sf.stride(0),
          .sf_pack_stride = args_.sf.stride(1),
          .num_sf_packs = request_.format.num_sf_packs,
          .topk_idx = state().ids.values<std::int64_t>(),
          .idx_bytes = request_.format.idx_bytes,
          .topk_weights = static_cast<const std::byte*>(weights_.data()),
          .weight_bytes = request_.format.weight_bytes,
          .targets = targets_};
}

// Rows are counted where they are stored, and where they leave the domain.
void DispatchOperation::meter_crossing() {
  const CrossingPlan& plan = *state().crossing;
  const std::size_t row_bytes = request_.format.row_bytes;
  const auto& carried =
      request_.shape.do_expand ? plan.num_carried_pairs_per_rank : plan.num_carried_tokens_per_rank;
  std::int64_t num_rows = 0;
  for (const SentTokens& sent : plan.sent) num_rows += static_cast<std::int64_t>(sent.tokens.size());
  std::int64_t bytes_written =
      engine_.meter.add_rows(plan.within.num_rows_per_rank, plan.within.num_pairs_per_rank, row_bytes);
  bytes_written += engine_.meter.add_rows(carried, carried, row_bytes);
  bytes_written +=
      engine_.meter.add_crossing(num_rows, num_pairs_across(state().send, engine_.routes()), row_bytes);
  engine_.meter.add_memory(total_bytes(request_.num_tokens, row_bytes), bytes_written);
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
