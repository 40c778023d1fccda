// SPDX-License-Identifier: Apache-2.0
//
// Combine, phase by phase: the mirror image of dispatch.
#include "core/elastic_buffer_impl.h"

namespace flexep {

CombineResult ElasticBuffer::Impl::combine(const CombineArgs& args) {
  const std::uint64_t sequence_number = ++sequence_number_;
  CombineRequest request;
  Offer rows;
  Offer weights;

  // Agree: where everybody's rows are. Input that peers cannot reach is staged first.
  const ExchangeResult agreed = agreement_.exchange({"combine", sequence_number}, [&] {
    request = resolve_combine(args, context_);
    rows = offer_rows(request, args);
    weights = offer_weights(request, args);
    return announce_combine(request, args, rows, weights);
  });

  // Move: every home rank reads its tokens' rows where they are.
  const DispatchState& state = args.handle.state();
  const auto sources = find_sources(request, state, agreed, rows, weights);
  CombineResult result = pull_rows(request, state, sources);

  // Wait until everybody has read: the caller may overwrite its rows at once.
  agreement_.complete({"combine: rows", sequence_number});
  ++counters_.num_combines;
  return result;
}

ElasticBuffer::Impl::Offer ElasticBuffer::Impl::offer_rows(const CombineRequest& request,
                                                           const CombineArgs& args) {
  const DispatchState& state = args.handle.state();
  const bool do_expand = state.shape.do_expand;
  Offer offer{.is_per_token = !do_expand, .data = static_cast<const std::byte*>(args.x.data())};
  const std::size_t num_bytes = static_cast<std::size_t>(state.num_rows()) * request.row_bytes;
  if (num_bytes == 0) return offer;
  if (const auto address = arena_->locate(offer.data, num_bytes)) {
    offer.address = *address;
    return offer;
  }

  const auto num_tokens = static_cast<std::size_t>(state.receive.num_recv_tokens);
  if (do_expand && config_.allow_multiple_reduction) {
    // The rows have to be read anyway, so that each token's are reduced on the way.
    offer.staged = arena_->reserve(num_tokens * request.row_bytes);
    backend_->reduce_tokens({.metadata = state.recv_src_metadata.values<std::int32_t>(),
                             .num_recv_tokens = state.receive.num_recv_tokens,
                             .num_topk = state.shape.num_topk,
                             .dtype = request.dtype,
                             .num_columns = static_cast<std::size_t>(request.hidden),
                             .x = offer.data,
                             .out = offer.staged.data()},
                            request.num_sms);
    offer.is_per_token = true;
    counters_.staging_bytes += static_cast<std::int64_t>(num_tokens * request.row_bytes);
  } else {
    offer.staged = arena_->reserve(num_bytes);
    backend_->copy(offer.staged.data(), offer.data, num_bytes, request.num_sms);
    counters_.staging_bytes += static_cast<std::int64_t>(num_bytes);
  }
  offer.address = offer.staged.address();
  offer.data = offer.staged.data();
  return offer;
}

ElasticBuffer::Impl::Offer ElasticBuffer::Impl::offer_weights(const CombineRequest& request,
                                                              const CombineArgs& args) {
  Offer offer{.data = static_cast<const std::byte*>(args.topk_weights.data())};
  if (!request.weight_dtype || args.topk_weights.num_bytes() == 0) return offer;
  if (const auto address = arena_->locate(offer.data, args.topk_weights.num_bytes())) {
    offer.address = *address;
    return offer;
  }
  offer.staged = arena_->reserve(args.topk_weights.num_bytes());
  backend_->copy(offer.staged.data(), offer.data, args.topk_weights.num_bytes(), 1);
  offer.address = offer.staged.address();
  offer.data = offer.staged.data();
  return offer;
}

ExchangeMessage ElasticBuffer::Impl::announce_combine(const CombineRequest& request, const CombineArgs& args,
                                                      const Offer& rows, const Offer& weights) const {
  ExchangeMessage message;
  ExchangeHeader& header = message.header;
  header[Field::kHandle] = args.handle.state().id;
  header[Field::kDType] = static_cast<std::int64_t>(request.dtype);
  header[Field::kHidden] = request.hidden;
  header[Field::kTopkWeights] =
      request.weight_dtype ? 1 + static_cast<std::int64_t>(*request.weight_dtype) : 0;
  header[Field::kAllowMultipleReduction] = config_.allow_multiple_reduction;
  header.x = rows.address;
  header.x_is_per_token = rows.is_per_token;
  header.topk_weights = weights.address;
  return message;
}

std::vector<PullSource> ElasticBuffer::Impl::find_sources(const CombineRequest& request,
                                                          const DispatchState& state,
                                                          const ExchangeResult& agreed, const Offer& rows,
                                                          const Offer& weights) {
  std::vector<PullSource> sources(static_cast<std::size_t>(num_ranks()));
  for (int rank = 0; rank < num_ranks(); ++rank) {
    const auto r = static_cast<std::size_t>(rank);
    if (state.send.num_rows_per_rank[r] == 0) continue;
    const ExchangeHeader& header = agreed.headers[r];
    const bool is_own = rank == this->rank();
    sources[r].x = is_own ? rows.data : peers_.resolve(rank, header.x);
    if (request.weight_dtype) {
      sources[r].topk_weights = is_own ? weights.data : peers_.resolve(rank, header.topk_weights);
    }
    sources[r].is_per_token = header.x_is_per_token != 0;
  }
  return sources;
}

CombineResult ElasticBuffer::Impl::pull_rows(const CombineRequest& request, const DispatchState& state,
                                             const std::vector<PullSource>& sources) {
  const Shape x_shape{state.send.num_tokens, request.hidden};
  const std::size_t x_bytes = static_cast<std::size_t>(state.send.num_tokens) * request.row_bytes;
  CombineResult result;
  result.x = make_tensor(arena_->reserve(x_bytes), x_shape, request.dtype);
  if (request.weight_dtype) {
    const Shape shape{state.send.num_tokens, state.shape.num_topk};
    const std::size_t num_bytes =
        static_cast<std::size_t>(shape.num_elements()) * size_of(*request.weight_dtype);
    result.topk_weights = make_tensor(arena_->reserve(num_bytes), shape, *request.weight_dtype);
  }
  backend_->pull({.plan = &state.send,
                  .do_expand = state.shape.do_expand,
                  .allow_multiple_reduction = config_.allow_multiple_reduction,
                  .dtype = request.dtype,
                  .num_columns = static_cast<std::size_t>(request.hidden),
                  .weight_bytes = request.weight_dtype ? size_of(*request.weight_dtype) : 0,
                  .sources = sources,
                  .x = static_cast<std::byte*>(result.x.data()),
                  .topk_weights = static_cast<std::byte*>(result.topk_weights.data())},
                 request.num_sms);

  // What was read: one row per token from ranks that reduced, one per pair from the others.
  std::vector<std::int32_t> num_rows_read = state.send.num_rows_per_rank;
  for (std::size_t r = 0; r < sources.size(); ++r) {
    if (sources[r].is_per_token) num_rows_read[r] = state.send.num_tokens_per_rank[r];
    counters_.bytes_read +=
        static_cast<std::int64_t>(static_cast<std::size_t>(num_rows_read[r]) * request.row_bytes);
  }
  count_rows(num_rows_read, request.row_bytes);
  counters_.bytes_written += static_cast<std::int64_t>(x_bytes);
  return result;
}

}  // namespace flexep
