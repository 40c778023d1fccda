// SPDX-License-Identifier: Apache-2.0
#include "core/dispatch_operation.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <optional>

#include "common/check.h"
#include "core/check_weights.h"
#include "flexep/error.h"
#include "routing/drops.h"
#include "routing/routing_counts.h"

namespace flexep {
namespace {

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

// [R], or empty when no rank has a limit.
std::vector<std::int32_t> limits_of(const ExchangeResult& agreed) {
  const auto limit_of = [](const ExchangeHeader& header) { return header.max_recv_tokens; };
  std::vector<std::int32_t> limits;
  if (std::ranges::none_of(agreed.headers, limit_of)) return limits;
  std::ranges::transform(agreed.headers, std::back_inserter(limits), limit_of);
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

}  // namespace

DispatchOperation::DispatchOperation(Engine& engine, const DispatchArgs& args, std::uint64_t sequence_number,
                                     const std::exception_ptr& refusal)
    : engine_(engine), args_(args), sequence_number_(sequence_number) {
  try {
    if (refusal) std::rethrow_exception(refusal);
    request_ = resolve_dispatch(args_, engine_.context);
    result_.handle = args_.handle;
    if (!args_.handle) start_handle();
    if (needs_counts()) return;
    reserve(engine_.arena->reserve(bytes_needed(state().size)));
    make_outputs();
  } catch (...) {
    refusal_ = std::current_exception();
  }
}

// The handle as far as the arguments decide it.
void DispatchOperation::start_handle() {
  fresh_state_ =
      make_dispatch_state(request_, engine_.rank(), engine_.id + static_cast<std::int64_t>(sequence_number_));
  fresh_state_->routes = engine_.routes();
  if (!request_.do_cpu_sync) {
    fresh_state_->num_max_tokens_per_rank = request_.num_max_tokens_per_rank;
    fresh_state_->size =
        bound_receive_size(request_.shape, request_.num_max_tokens_per_rank, args_.max_recv_tokens);
  }
  result_.handle = DispatchHandle(fresh_state_);
}

void DispatchOperation::run() {
  const bool defers_errors = fresh_state_ && !request_.do_cpu_sync && !is_refused();
  try {
    agree_and_place();
    move();
  } catch (const TimeoutError&) {
    throw;
  } catch (const TransportError&) {
    throw;
  } catch (...) {
    if (!defers_errors) throw;
    engine_.deferred_error.keep(std::current_exception());
    route_nothing();
  }
}

void DispatchOperation::agree_and_place() {
  ExchangeResult agreed = agree();
  if (!args_.handle) {
    CountSummary counts = summarise(agreed);
    const auto limits = limits_of(agreed);
    if (!limits.empty() && exceeds_limits(counts, request_.shape, limits)) {
      agreed = drop(counts, limits);
      counts = summarise(agreed);
    }
    attempt([&] { plan(agreed, counts); });
    if (engine_.routes().cross_domains()) plan_crossing();
  }
  if (must_place(agreed)) agreed = place(agreed);
  attempt([&] {
    find_targets(agreed);
    if (needs_counts()) make_outputs();
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
  engine_.meter.begin();
  return engine_.agreement.exchange({"dispatch", sequence_number_}, [&] {
    if (refusal_) std::rethrow_exception(refusal_);
    if (args_.previous_event) args_.previous_event.wait();
    if (needs_counts()) engine_.deferred_error.report();
    if (args_.handle) {
      require_rows_have_arrived(args_.handle, engine_.rank());
    } else {
      require_tokens_fit(request_, engine_.rank());
      ids_ = as_int64(args_.topk_idx);
      own_counts_ = count_routing(view_of(ids_), request_.shape, engine_.rank());
    }
    if (args_.check_weights) check_weights();
    if (args_.handle) prepare_crossing();
    if (needs_counts() && !engine_.routes().cross_domains()) reserve(engine_.arena->reserve_largest());
    return announce();
  });
}

// Inside a domain everybody's counts have come with the headers. Across domains they would be too many.
CountSummary DispatchOperation::summarise(const ExchangeResult& agreed) {
  if (!engine_.routes().cross_domains()) return summarise_counts(agreed.counts, engine_.rank());
  sent_ = list_crossing_tokens(view_of(ids_), request_.shape, engine_.routes());
  CrossingCounts counts = count_across_domains(*engine_.transport, *own_counts_, sent_, sequence_number_);
  num_carried_ = std::move(counts.num_carried);
  return std::move(counts.counts);
}

void DispatchOperation::check_weights() const {
  if (!args_.topk_weights) return;
  require_finite_weights(args_.topk_weights, args_.handle ? state().ids : ids_, engine_.rank());
}

ExchangeMessage DispatchOperation::announce() const {
  ExchangeMessage message;
  if (own_counts_ && !engine_.routes().cross_domains()) message.counts = own_counts_->block();
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
  header[Field::kDoCpuSync] = request_.do_cpu_sync;
  header[Field::kAllowMultipleReduction] = engine_.config.allow_multiple_reduction;
  header.region = region_.address;
  header.region_bytes = region_.num_bytes;
  header.num_max_tokens_per_rank = request_.num_max_tokens_per_rank;
  header.max_recv_tokens = args_.max_recv_tokens;
  return message;
}

// Takes the pairs that do not fit out of the ids, as if they had never been there, and exchanges counts anew.
ExchangeResult DispatchOperation::drop(const CountSummary& counts, std::span<const std::int32_t> limits) {
  return engine_.agreement.exchange({"dispatch: drops", sequence_number_}, [&] {
    num_routed_tokens_ = plan_receive(counts, request_.shape, engine_.rank()).num_recv_tokens_per_expert;
    ids_ = ids_.clone();
    drop_pairs(ids_.values<std::int64_t>(), counts, request_.shape, limits);
    own_counts_ = count_routing(view_of(ids_), request_.shape, engine_.rank());
    return announce();
  });
}

void DispatchOperation::plan(const ExchangeResult& agreed, const CountSummary& counts) {
  DispatchState& state = *fresh_state_;
  const int num_max_tokens = agree_on_num_max_tokens(agreed);
  // Receivers first: this checks that all rows fit 31 bits, on which senders rely.
  state.receive_sizes = output_sizes(agreed, counts);
  plan_slots(counts);
  // Without host sync the caller has the handle, and may be reading what it holds.
  if (!needs_counts()) return;
  state.num_max_tokens_per_rank = num_max_tokens;
  state.size = state.receive_sizes[static_cast<std::size_t>(engine_.rank())];
  state.is_planned = true;
}

// Tells carriers where this rank's tokens go. A plan fails on all ranks alike, for lack of rows; memory that
// runs out on one alone ends the group.
void DispatchOperation::plan_crossing() {
  if (failure_) return;
  run_or_break_up(engine_, [&] {
    fresh_state_->crossing = exchange_plans(*engine_.transport, engine_.routes(), fresh_state_->send,
                                            std::move(sent_), num_carried_, sequence_number_);
  });
}

void DispatchOperation::plan_slots(const CountSummary& counts) {
  DispatchState& state = *fresh_state_;
  keep_ids(state);
  state.receive = plan_receive(counts, request_.shape, engine_.rank());
  state.send = plan_send(view_of(ids_), counts, request_.shape);
  state.num_dropped_tokens.assign(static_cast<std::size_t>(request_.shape.num_local_experts()), 0);
  for (std::size_t i = 0; i < num_routed_tokens_.size(); ++i) {
    state.num_dropped_tokens[i] = num_routed_tokens_[i] - state.receive.num_recv_tokens_per_expert[i];
  }
}

std::vector<ReceiveSize> DispatchOperation::output_sizes(const ExchangeResult& agreed,
                                                         const CountSummary& counts) const {
  if (needs_counts()) return plan_receive_sizes(counts, request_.shape);
  std::vector<ReceiveSize> sizes;
  for (const ExchangeHeader& header : agreed.headers) {
    sizes.push_back(
        bound_receive_size(request_.shape, request_.num_max_tokens_per_rank, header.max_recv_tokens));
  }
  return sizes;
}

void DispatchOperation::keep_ids(DispatchState& state) const {
  const bool are_the_callers = ids_.data() == args_.topk_idx.data();
  state.ids = are_the_callers && args_.do_handle_copy ? ids_.clone() : ids_;
  state.topk_idx = as_dtype(state.ids, request_.idx_dtype);
}

// What a dispatch without host sync that failed leaves: all ranks as if no token went anywhere, so that
// combine and cached dispatch move nothing and all stay in step.
void DispatchOperation::route_nothing() {
  const int num_tokens = request_.num_tokens;
  ids_ = Tensor::empty({num_tokens, request_.shape.num_topk}, DType::kInt64);
  std::ranges::fill(ids_.values<std::int64_t>(), -1);
  num_routed_tokens_.clear();
  const RoutingCounts none(request_.shape);
  const std::vector all(static_cast<std::size_t>(engine_.num_ranks()), none.block());
  plan_slots(summarise_counts(all, engine_.rank()));
  if (engine_.routes().cross_domains())
    fresh_state_->crossing = route_nothing_across(engine_.routes(), fresh_state_->send);
  fresh_state_->receive_sizes.assign(static_cast<std::size_t>(engine_.num_ranks()), {});
  complete();
}

}  // namespace flexep
