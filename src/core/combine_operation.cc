// SPDX-License-Identifier: Apache-2.0
#include "core/combine_operation.h"

#include "core/combine_crossing.h"

namespace flexep {

CombineOperation::CombineOperation(Engine& engine, const CombineArgs& args, std::uint64_t sequence_number,
                                   const std::exception_ptr& refusal)
    : engine_(engine), args_(args), sequence_number_(sequence_number) {
  try {
    if (refusal) std::rethrow_exception(refusal);
    request_ = resolve_combine(args_, engine_.context);
    registrations_ = {engine_.registrations->hold(args_.x.data()),
                      engine_.registrations->hold(args_.topk_weights.data())};
    make_outputs();
  } catch (...) {
    refusal_ = std::current_exception();
  }
}

void CombineOperation::make_outputs() {
  const auto make = [&](const Shape& shape, DType dtype) {
    const auto num_bytes = static_cast<std::size_t>(shape.num_elements()) * size_of(dtype);
    return make_tensor(engine_.arena->reserve(num_bytes), shape, dtype);
  };
  const int num_tokens = state().num_tokens;
  result_.x = make({num_tokens, request_.hidden}, request_.dtype);
  if (request_.weight_dtype)
    result_.topk_weights = make({num_tokens, state().shape.num_topk}, *request_.weight_dtype);
}

void CombineOperation::run() {
  engine_.meter.begin();
  // Agree: where everybody's rows are. Input that peers cannot reach is staged first.
  const ExchangeResult agreed = engine_.agreement.exchange({"combine", sequence_number_}, [&] {
    if (refusal_) std::rethrow_exception(refusal_);
    if (args_.previous_event) args_.previous_event.wait();
    require_rows_have_arrived(args_.handle, engine_.rank());
    args_.x = args_.x.contiguous();
    args_.topk_weights = args_.topk_weights.contiguous();
    rows_ = offer_rows();
    weights_ = offer(static_cast<const std::byte*>(args_.topk_weights.data()),
                     args_.topk_weights ? args_.topk_weights.num_bytes() : 0);
    if (engine_.routes().cross_domains()) prepare_crossing();
    return announce();
  });

  if (engine_.routes().cross_domains()) cross(agreed);
  // Move, and wait until everybody has read: the caller may overwrite its rows then.
  engine_.agreement.conclude({"combine: rows", sequence_number_}, [&] {
    if (engine_.routes().cross_domains()) return;
    if (args_.previous_event_before_epilogue) args_.previous_event_before_epilogue.wait();
    for (Tensor& bias : args_.bias) bias = bias.contiguous();
    pull(find_sources(agreed));
  });
  engine_.meter.end_combine();
}

std::optional<CombineOperation::Offer> CombineOperation::offer_in_place(const std::byte* data,
                                                                        std::size_t num_bytes) {
  Offer offer{.address = {}, .staged = {}, .data = data};
  if (num_bytes == 0) return offer;
  auto address = engine_.arena->locate(data, num_bytes);
  if (!address) address = engine_.registrations->locate(data, num_bytes);
  if (!address) return std::nullopt;
  offer.address = *address;
  return offer;
}

CombineOperation::Offer CombineOperation::offer(const std::byte* data, std::size_t num_bytes) {
  if (auto in_place = offer_in_place(data, num_bytes)) return std::move(*in_place);
  Offer staged;
  staged.staged = engine_.arena->reserve(num_bytes);
  engine_.backend->copy(staged.staged.data(), data, num_bytes, request_.num_sms);
  staged.address = staged.staged.address();
  staged.data = staged.staged.data();
  return staged;
}

CombineOperation::Offer CombineOperation::offer_rows() {
  const auto* data = static_cast<const std::byte*>(args_.x.data());
  const bool do_expand = state().shape.do_expand;
  // Not state().num_rows(): without host sync that is a bound, and nobody reads the rows beyond.
  const auto num_rows = static_cast<std::size_t>(state().receive.num_rows(do_expand));
  const std::size_t num_bytes = num_rows * request_.row_bytes;
  if (do_expand && engine_.config.allow_multiple_reduction) {
    if (auto in_place = offer_in_place(data, num_bytes)) return std::move(*in_place);
    // The rows have to be read anyway, so that each token's are reduced on the way.
    Offer reduced;
    reduced.data = data;
    reduce_into(reduced);
    return reduced;
  }
  Offer rows = offer(data, num_bytes);
  rows.is_per_token = !do_expand;
  if (rows.staged.num_bytes() > 0) {
    engine_.meter.add_staging(static_cast<std::int64_t>(num_bytes));
  }
  return rows;
}

void CombineOperation::reduce_into(Offer& rows) {
  const int num_tokens = state().receive.num_recv_tokens;
  rows.staged = engine_.arena->reserve(static_cast<std::size_t>(num_tokens) * request_.row_bytes);
  engine_.backend->reduce_tokens({.metadata = state().recv_src_metadata.values<std::int32_t>(),
                                  .num_recv_tokens = num_tokens,
                                  .num_topk = state().shape.num_topk,
                                  .dtype = request_.dtype,
                                  .num_columns = static_cast<std::size_t>(request_.hidden),
                                  .x = rows.data,
                                  .out = rows.staged.data()},
                                 request_.num_sms);
  rows.address = rows.staged.address();
  rows.data = rows.staged.data();
  rows.is_per_token = true;
  engine_.meter.add_staging(total_bytes(num_tokens, request_.row_bytes));
}

ExchangeMessage CombineOperation::announce() const {
  ExchangeMessage message;
  ExchangeHeader& header = message.header;
  header[Field::kHandle] = state().id;
  header[Field::kDType] = static_cast<std::int64_t>(request_.dtype);
  header[Field::kHidden] = request_.hidden;
  header[Field::kTopkWeights] = optional_field(request_.weight_dtype);
  header[Field::kAllowMultipleReduction] = engine_.config.allow_multiple_reduction;
  header.x = rows_.address;
  header.x_is_per_token = rows_.is_per_token;
  header.topk_weights = weights_.address;
  return message;
}

std::vector<PullSource> CombineOperation::find_sources(const ExchangeResult& agreed) {
  std::vector<PullSource> sources(agreed.headers.size());
  for (int rank = 0; rank < engine_.num_ranks(); ++rank) {
    const auto r = static_cast<std::size_t>(rank);
    if (!engine_.routes().is_within(rank)) continue;
    const bool is_carried_from = state().crossing && state().crossing->num_carried_tokens_per_rank[r] > 0;
    if (state().send.num_rows_per_rank[r] == 0 && !is_carried_from) continue;
    const ExchangeHeader& header = agreed.headers[r];
    const bool is_own = rank == engine_.rank();
    sources[r].x = is_own ? rows_.data : engine_.peers.resolve(rank, header.x);
    if (request_.weight_dtype) {
      sources[r].topk_weights = is_own ? weights_.data : engine_.peers.resolve(rank, header.topk_weights);
    }
    sources[r].is_per_token = header.x_is_per_token != 0;
  }
  return sources;
}

PullJob CombineOperation::own_tokens(const std::vector<PullSource>& sources) const {
  return {.plan = &state().send,
          .do_expand = state().shape.do_expand,
          .allow_multiple_reduction = engine_.config.allow_multiple_reduction,
          .dtype = request_.dtype,
          .num_columns = static_cast<std::size_t>(request_.hidden),
          .weight_bytes = request_.weight_dtype ? flexep::size_of(*request_.weight_dtype) : 0,
          .sources = sources,
          .bias = {static_cast<const std::byte*>(args_.bias[0].data()),
                   static_cast<const std::byte*>(args_.bias[1].data())},
          .x = static_cast<std::byte*>(result_.x.data()),
          .topk_weights = static_cast<std::byte*>(result_.topk_weights.data())};
}

void CombineOperation::pull(const std::vector<PullSource>& sources) {
  const SendPlan& send = state().send;
  engine_.backend->pull(own_tokens(sources), request_.num_sms);

  // What was read: one row per token from ranks that reduced, one per pair from the others.
  std::vector<std::int32_t> num_rows_read = send.num_rows_per_rank;
  for (std::size_t r = 0; r < sources.size(); ++r) {
    if (sources[r].is_per_token) num_rows_read[r] = send.num_tokens_per_rank[r];
  }
  const std::int64_t bytes_read =
      engine_.meter.add_rows(num_rows_read, send.num_pairs_per_rank, request_.row_bytes);
  engine_.meter.add_memory(bytes_read, total_bytes(send.num_tokens, request_.row_bytes));
}

// In the last exchange in which a failure can be told without ending the group.
void CombineOperation::prepare_crossing() {
  if (args_.previous_event_before_epilogue) args_.previous_event_before_epilogue.wait();
  waves_ = plan_combine_waves(CombineCrossing::format_of(engine_.routes(), own_tokens({})),
                              engine_.wave_limits(state().num_max_tokens_per_rank));
  staging_ = engine_.staging.reserve(waves_.num_bytes());
}

void CombineOperation::cross(const ExchangeResult& agreed) {
  std::vector<PullSource> sources;
  std::optional<CombineCrossing> crossing;
  run_or_break_up(engine_, [&] {
    for (Tensor& bias : args_.bias) bias = bias.contiguous();
    sources = find_sources(agreed);
    const PullJob rows = own_tokens(sources);
    crossing.emplace(CombineCrossing::Job{.backend = engine_.backend.get(),
                                          .messages = &engine_.transport->messages(),
                                          .routes = &engine_.routes(),
                                          .plan = &*state().crossing,
                                          .rows = rows,
                                          .format = CombineCrossing::format_of(engine_.routes(), rows),
                                          .waves = waves_,
                                          .staging = staging_,
                                          .width = request_.num_sms});
    engine_.transport->settle(*crossing, {"combine: rows", sequence_number_});
  });
  meter_crossing(sources, crossing->num_rows_received());
}

// Rows are counted where they are read, and where they come from another domain.
void CombineOperation::meter_crossing(const std::vector<PullSource>& sources,
                                      std::int64_t num_rows_received) {
  const CrossingPlan& plan = *state().crossing;
  std::vector<std::int32_t> own = plan.within.num_rows_per_rank;
  std::vector<std::int32_t> carried = plan.num_carried_pairs_per_rank;
  for (std::size_t r = 0; r < sources.size(); ++r) {
    if (sources[r].is_per_token) own[r] = plan.within.num_tokens_per_rank[r];
    if (sources[r].is_per_token) carried[r] = plan.num_carried_tokens_per_rank[r];
  }
  std::int64_t bytes_read = engine_.meter.add_rows(own, plan.within.num_pairs_per_rank, request_.row_bytes);
  bytes_read += engine_.meter.add_rows(carried, carried, request_.row_bytes);
  bytes_read += engine_.meter.add_crossing(
      num_rows_received, num_pairs_across(state().send, engine_.routes()), request_.row_bytes);
  engine_.meter.add_memory(bytes_read, total_bytes(state().send.num_tokens, request_.row_bytes));
}

}  // namespace flexep
