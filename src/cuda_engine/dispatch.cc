// SPDX-License-Identifier: Apache-2.0
#include "cuda_engine/dispatch.h"

#include <algorithm>
#include <utility>

#include "backend/cuda/check_cuda.h"
#include "common/check.h"
#include "cuda_engine/dense_copy.h"
#include "cuda_engine/handle_state.h"
#include "flexep/cuda.h"

namespace flexep::cuda {
namespace {

static_assert(OutputLayout::kAlignment == DeviceArena::kGranularity);

bool rows_are_aligned(const Tensor& x) {
  const auto pitch = static_cast<std::size_t>(x.stride(0)) * size_of(x.dtype());
  return x.num_bytes() == 0 || (reinterpret_cast<std::uintptr_t>(x.data()) % 16 == 0 && pitch % 16 == 0);
}

}  // namespace

Dispatch::Dispatch(DeviceGroup& group, Flights& flights, const DispatchArgs& args,
                   std::uint64_t sequence_number)
    : Operation(group, flights,
                {.name = "dispatch", .sequence_number = sequence_number, .rank = group.rank()}),
      args_(args) {}

DispatchResult Dispatch::run(std::exception_ptr& unheard) {
  attempt([&] {
    resolve();
    if (waits_for_sizes_ && unheard) std::rethrow_exception(std::exchange(unheard, nullptr));
    follow(args_.previous_event, args_.previous_event_before_epilogue);
    prepare_inputs();
    prepare_handle();
    if (!waits_for_sizes_) bound_sizes();
  });
  const std::shared_ptr<Flight> flight = waits_for_sizes_ ? launch_until_it_fits() : launch();
  const std::shared_ptr<DispatchState> fresh = fresh_;
  if (fresh && waits_for_sizes_) {
    fill_counts(*fresh, *flight);
    fresh->size = fresh->receive_sizes[static_cast<std::size_t>(group_.rank())];
    fresh->num_max_tokens_per_rank = flight->result().num_max_tokens_per_rank;
  }
  make_outputs();
  if (is_captured_) {
    keep_outputs(*flight);
  } else {
    flight->keep(std::make_shared<const DispatchArgs>(args_));
    count_when_done(*flight);
  }
  result_.event = let_follow(flight, args_.async_with_compute_stream);
  // Somebody has to wait for the counts, and be it later.
  if (fresh && !waits_for_sizes_)
    result_.event = Event(std::static_pointer_cast<const Event::Moment>(flight));
  return result_;
}

// What was taken from the arena while capturing, and nothing else: its inputs, and the streams on which they
// go back to where they came from, are the program's.
void Dispatch::keep_outputs(Flight& flight) const {
  for (const Tensor& part : {result_.x, result_.sf, result_.topk_idx, result_.topk_weights})
    flight.keep(part.owner());
  flight.keep(fresh_);
  flight.keep(group_.workspace);
}

void Dispatch::count_when_done(Flight& flight) const {
  const auto row_bytes = static_cast<std::int64_t>(request_.format.row_bytes);
  flight.when_done(
      [&group = group_, fresh = fresh_, handle = result_.handle, row_bytes](const Flight& landed) {
        if (fresh && !fresh->is_planned) fill_counts(*fresh, landed);
        if (fresh) fresh->rows_have_arrived = true;
        group.count_dispatch(handle.state(), row_bytes);
      });
}

void Dispatch::resolve() {
  request_ = resolve_dispatch(args_, group_.context);
  if (!args_.handle) require_tokens_fit(request_, group_.rank());
  check_num_sms(request_.num_sms);
  name_.num_experts = request_.shape.num_experts;
  require_argument(request_.shape.num_experts <= kMaxExperts, "num_experts",
                   "num_experts on rank {} is {}, but a GPU takes at most {}", group_.rank(),
                   request_.shape.num_experts, kMaxExperts);
  waits_for_sizes_ = !args_.handle && request_.do_cpu_sync;
  require_argument(!waits_for_sizes_ || !is_captured_, "do_cpu_sync",
                   "a dispatch with host sync cannot be captured into a graph, on rank {}", group_.rank());
}

void Dispatch::prepare_inputs() {
  if (!rows_are_aligned(args_.x)) args_.x = dense(args_.x);
  args_.topk_idx = dense(args_.topk_idx);
  args_.topk_weights = dense(args_.topk_weights);
}

void Dispatch::prepare_handle() {
  const RoutingShape& shape = request_.shape;
  plan_layout_ = {.num_ranks = shape.num_ranks,
                  .num_local_experts = shape.num_local_experts(),
                  .max_tokens = request_.num_tokens,
                  .num_topk = shape.num_topk,
                  .do_expand = shape.do_expand};
  if (args_.handle) {
    result_.handle = args_.handle;
    return;
  }
  const auto make = [&](std::size_t num_bytes, const Shape& extents, DType dtype) {
    return group_.local->make_tensor(reserve_local(num_bytes), extents, dtype);
  };
  fresh_ = make_dispatch_state(request_, group_.rank(),
                               group_.id + static_cast<std::int64_t>(name_.sequence_number));
  fresh_->num_max_tokens_per_rank = request_.num_max_tokens_per_rank;
  // Always a copy: another rank's limit may drop pairs of this one.
  fresh_->topk_idx = make(args_.topk_idx.num_bytes(), args_.topk_idx.shape(), request_.idx_dtype);
  fresh_->device_plan =
      make(plan_layout_.num_bytes(), {static_cast<std::int64_t>(plan_layout_.num_bytes())}, DType::kUInt8);
  fresh_->dst_buffer_slot_idx =
      Tensor::from_memory(static_cast<std::byte*>(fresh_->device_plan.data()) + plan_layout_.token_slots(),
                          {request_.num_tokens, shape.num_topk}, DType::kInt32, fresh_->device_plan.owner(),
                          fresh_->device_plan.device());
  result_.handle = DispatchHandle(fresh_);
}

// A dispatch that does not wait has room for all that it may receive, so that it always fits.
void Dispatch::bound_sizes() {
  if (fresh_) {
    fresh_->size =
        bound_receive_size(request_.shape, request_.num_max_tokens_per_rank, args_.max_recv_tokens);
  }
  region_ = reserve(bytes_needed(result_.handle.state().size));
}

ExchangeHeader Dispatch::announce() const {
  ExchangeHeader header;
  kind_of(header) = static_cast<std::int64_t>(OperationKind::kDispatch);
  word(header, Field::kHandle) = args_.handle ? args_.handle.state().id : 0;
  word(header, Field::kNumExperts) = request_.shape.num_experts;
  word(header, Field::kNumTopk) = request_.shape.num_topk;
  word(header, Field::kTopkIdx) = static_cast<std::int64_t>(request_.idx_dtype);
  word(header, Field::kExpertAlignment) = request_.shape.expert_alignment;
  word(header, Field::kDoExpand) = request_.shape.do_expand;
  word(header, Field::kDType) = static_cast<std::int64_t>(request_.dtype);
  word(header, Field::kHidden) = request_.hidden;
  word(header, Field::kTopkWeights) = optional_field(request_.weight_dtype);
  word(header, Field::kScales) = optional_field(request_.sf_dtype);
  word(header, Field::kNumScalePacks) = request_.format.num_sf_packs;
  word(header, Field::kScalesAreColMajor) = request_.format.sf_is_col_major;
  word(header, Field::kDoCpuSync) = request_.do_cpu_sync;
  word(header, Field::kAllowMultipleReduction) = group_.config.allow_multiple_reduction;
  header.region = {.segment = 0, .offset = region_.offset()};
  header.region_bytes = region_.num_bytes();
  header.num_max_tokens_per_rank = request_.num_max_tokens_per_rank;
  header.max_recv_tokens = args_.max_recv_tokens;
  if (!request_.do_cpu_sync) {
    const ReceiveSize& bounds = result_.handle.state().size;
    header.bound_recv_tokens = bounds.num_recv_tokens;
    header.bound_expanded_tokens = bounds.num_expanded_tokens;
  }
  return header;
}

std::shared_ptr<Flight> Dispatch::launch() {
  const std::size_t scratch =
      dispatch_workspace_bytes(request_.num_sms, group_.num_ranks(), request_.shape.num_experts);
  if (!group_.workspace || scratch > group_.workspace->num_bytes())
    group_.workspace = std::make_shared<DeviceArena::Block>(reserve_local(scratch));
  const DispatchState& state = result_.handle.state();
  DispatchLaunch launch{
      .peers = group_.peers,
      .num_sms = request_.num_sms,
      .header = announce(),
      .format = request_.format,
      .num_experts = request_.shape.num_experts,
      .expert_alignment = request_.shape.expert_alignment,
      .do_zero_padding = request_.do_zero_padding,
      .num_tokens = request_.num_tokens,
      .device_num_tokens = static_cast<const std::int32_t*>(args_.num_tokens.data()),
      .topk_idx = args_.handle ? state.topk_idx.data() : args_.topk_idx.data(),
      .kept_topk_idx = args_.handle ? nullptr : state.topk_idx.data(),
      .x = static_cast<const std::byte*>(args_.x.data()),
      .x_stride = static_cast<std::size_t>(args_.x.stride(0)) * size_of(request_.dtype),
      .sf = static_cast<const std::uint32_t*>(args_.sf.data()),
      .sf_row_stride = args_.sf.stride(0),
      .sf_pack_stride = args_.sf.stride(1),
      .topk_weights = static_cast<const std::byte*>(args_.topk_weights.data()),
      .check_weights = args_.check_weights && request_.weight_dtype.has_value(),
      .cumulative_local_expert_recv_stats =
          static_cast<std::int32_t*>(args_.cumulative_local_expert_recv_stats.data()),
      .metadata = args_.handle ? static_cast<const std::int32_t*>(state.recv_src_metadata.data()) : nullptr,
      .plan = static_cast<std::byte*>(state.device_plan.data()),
      .plan_layout = plan_layout_,
      .workspace = group_.workspace->data()};
  return take_off(request_.shape.num_local_experts(), [&](const Reports& reports) {
    launch.reports = reports;
    check(launch_dispatch(launch, group_.stream()), "launch a dispatch");
  });
}

std::shared_ptr<Flight> Dispatch::launch_until_it_fits() {
  region_ = group_.arena->reserve_largest(group_.stream());
  for (;;) {
    std::shared_ptr<Flight> flight = launch();
    await_verdict(*flight);
    if (auto error = error_of_verdict(name_, flight->result(), flight->layout())) {
      flight->mark_heard();
      std::rethrow_exception(error);
    }
    if (flight->result().verdict == Verdict::kGo) return flight;
    attempt([&] { make_region_large_enough(*flight); });
  }
}

void Dispatch::make_region_large_enough(const Flight& flight) {
  const std::size_t needed = bytes_needed(receive_size_of(flight, group_.rank()));
  if (needed <= region_.num_bytes()) return;
  region_ = {};  // first: it may become part of the new one
  region_ = reserve(needed);
}

void Dispatch::make_outputs() {
  const ReceiveSize& size = result_.handle.state().size;
  const OutputLayout layout(request_.format, size);
  const int num_rows = size.num_rows(request_.format.do_expand);
  const int num_topk = request_.format.num_topk;
  const DeviceArena& arena = *group_.arena;
  DeviceArena::Block parts = region_.take_front(layout.num_bytes());
  region_ = {};
  parts.add_user(current_stream());
  result_.x =
      arena.make_tensor(parts.take_front(layout.x_bytes), {num_rows, request_.hidden}, request_.dtype);
  if (request_.sf_dtype) {
    const Shape strides{layout.sf_row_stride, layout.sf_pack_stride};
    result_.sf = arena.make_tensor(parts.take_front(layout.sf_bytes),
                                   {num_rows, request_.format.num_sf_packs}, strides, *request_.sf_dtype);
  }
  if (!request_.format.do_expand) {
    result_.topk_idx =
        arena.make_tensor(parts.take_front(layout.topk_idx_bytes), {num_rows, num_topk}, request_.idx_dtype);
  }
  if (request_.weight_dtype) {
    const Shape shape = request_.format.do_expand ? Shape{num_rows} : Shape{num_rows, num_topk};
    result_.topk_weights =
        arena.make_tensor(parts.take_front(layout.topk_weights_bytes), shape, *request_.weight_dtype);
  }
  if (fresh_) {
    fresh_->recv_src_metadata = arena.make_tensor(parts.take_front(layout.metadata_bytes),
                                                  {size.num_recv_tokens, num_topk + 2}, DType::kInt32);
  }
}

}  // namespace flexep::cuda
