// SPDX-License-Identifier: Apache-2.0
#include "cuda_engine/combine.h"

#include "backend/cuda/check_cuda.h"
#include "common/check.h"
#include "cuda_engine/dense_copy.h"
#include "cuda_engine/handle_state.h"
#include "flexep/cuda.h"

namespace flexep::cuda {
namespace {

/// Rows of a rank from which on their sums are worth a phase of their own. Between two H100, 24 to 32 SMs: of
/// 15 MB (128 tokens, top-8, 7168 bf16) a combine with sums takes 5 us longer, of 470 MB 70 to 215 us less.
constexpr std::size_t kMinBytesToSum = 32 << 20;

const std::byte* bytes_of(const Tensor& tensor) {
  return static_cast<const std::byte*>(tensor.data());
}

}  // namespace

Combine::Combine(DeviceGroup& group, Flights& flights, const CombineArgs& args, std::uint64_t sequence_number)
    : Operation(group, flights,
                {.name = "combine", .sequence_number = sequence_number, .rank = group.rank()}),
      args_(args) {}

CombineResult Combine::run() {
  attempt([&] {
    resolve();
    follow(args_.previous_event, args_.previous_event_before_epilogue);
    make_outputs();
    offer_rows();
    offer_weights();
    for (Tensor& bias : args_.bias) bias = dense(bias);
  });
  const std::shared_ptr<Flight> flight = launch();
  if (is_captured_) {
    for (const Tensor& part : {result_.x, result_.topk_weights}) flight->keep(part.owner());
    flight->keep(std::make_shared<const DeviceArena::Block>(std::move(staged_x_)));
    flight->keep(std::make_shared<const DeviceArena::Block>(std::move(staged_weights_)));
  } else {
    flight->keep(std::make_shared<const CombineArgs>(args_));
    for (const auto& use : registered_) use->ends_at(flight);
    count_when_done(*flight);
  }
  result_.event = let_follow(flight, args_.async_with_compute_stream);
  return result_;
}

void Combine::count_when_done(Flight& flight) const {
  flight.when_done([&group = group_, handle = args_.handle, row_bytes = request_.row_bytes,
                    staging_bytes = staging_bytes_](const Flight& landed) {
    group.count_combine(handle.state(), static_cast<std::int64_t>(row_bytes), is_per_token(landed),
                        staging_bytes);
  });
}

void Combine::resolve() {
  request_ = resolve_combine(args_, group_.context);
  check_num_sms(request_.num_sms);
}

void Combine::make_outputs() {
  const auto make = [&](const Shape& shape, DType dtype) {
    DeviceArena::Block block = reserve_local(static_cast<std::size_t>(shape.num_elements()) * size_of(dtype));
    block.add_user(current_stream());
    return group_.local->make_tensor(std::move(block), shape, dtype);
  };
  result_.x = make({state().num_tokens, request_.hidden}, request_.dtype);
  if (request_.weight_dtype)
    result_.topk_weights = make({state().num_tokens, state().shape.num_topk}, *request_.weight_dtype);
}

std::optional<HeaderAddress> Combine::offer_in_place(const Tensor& dense) {
  if (const auto offset = group_.arena->locate(dense.data(), dense.num_bytes()))
    return HeaderAddress{.segment = 0, .offset = *offset};
  auto use = group_.registrations->use(dense.data(), dense.num_bytes());
  if (!use) return std::nullopt;
  registered_.push_back(std::move(use));
  return registered_.back()->address();
}

// In the arena, or registered, they are read where they are. Others are staged by the kernel, which reduces
// each token's rows on the way where the contract allows it, or, where no kernel can read them, by a copy.
void Combine::offer_rows() {
  const auto num_bytes = static_cast<std::size_t>(state().num_rows()) * request_.row_bytes;
  ExchangeHeader& header = launch_.header;
  header.x_is_per_token = !state().shape.do_expand;
  if (num_bytes == 0) return;
  const Tensor rows = args_.x.rows(0, state().num_rows());
  const bool reduces = is_dense(rows) && state().shape.do_expand && group_.config.allow_multiple_reduction;
  if (is_dense(rows)) {
    if (const auto address = offer_in_place(rows)) {
      header.x = *address;
      if (reduces && group_.peers.is_across_link != nullptr && num_bytes >= kMinBytesToSum) offer_sums(rows);
      return;
    }
  }
  const auto num_staged =
      static_cast<std::size_t>(reduces ? state().size.num_recv_tokens : state().num_rows());
  staging_bytes_ = static_cast<std::int64_t>(num_staged * request_.row_bytes);
  staged_x_ = reserve(num_staged * request_.row_bytes);
  header.x = {.segment = 0, .offset = staged_x_.offset()};
  if (!is_dense(rows)) {
    copy_dense(rows, staged_x_.data(), group_.stream());
    return;
  }
  header.x_is_per_token |= static_cast<std::int32_t>(reduces);
  launch_.x = bytes_of(rows);
  launch_.staged_x = staged_x_.data();
  if (reduces) launch_.metadata = static_cast<const std::int32_t*>(state().recv_src_metadata.data());
}

// Ranks across a link read the sum of a token's rows instead of each of them.
void Combine::offer_sums(const Tensor& rows) {
  staged_x_ = reserve(static_cast<std::size_t>(state().size.num_recv_tokens) * request_.row_bytes);
  launch_.header.summed_x = {.segment = 0, .offset = staged_x_.offset()};
  launch_.x = bytes_of(rows);
  launch_.staged_x = staged_x_.data();
  launch_.metadata = static_cast<const std::int32_t*>(state().recv_src_metadata.data());
}

void Combine::offer_weights() {
  if (!args_.topk_weights || args_.topk_weights.num_bytes() == 0) return;
  const Tensor& weights = args_.topk_weights;
  ExchangeHeader& header = launch_.header;
  if (is_dense(weights)) {
    if (const auto address = offer_in_place(weights)) {
      header.topk_weights = *address;
      return;
    }
  }
  staged_weights_ = reserve(weights.num_bytes());
  header.topk_weights = {.segment = 0, .offset = staged_weights_.offset()};
  copy_dense(weights, staged_weights_.data(), group_.stream());
}

std::shared_ptr<Flight> Combine::launch() {
  const RoutingShape& shape = state().shape;
  ExchangeHeader& header = launch_.header;
  kind_of(header) = static_cast<std::int64_t>(OperationKind::kCombine);
  word(header, Field::kHandle) = state().id;
  word(header, Field::kDType) = static_cast<std::int64_t>(request_.dtype);
  word(header, Field::kHidden) = request_.hidden;
  word(header, Field::kTopkWeights) = optional_field(request_.weight_dtype);
  word(header, Field::kAllowMultipleReduction) = group_.config.allow_multiple_reduction;

  launch_.peers = group_.peers;
  launch_.num_sms = request_.num_sms;
  launch_.plan = bytes_of(state().device_plan);
  launch_.plan_layout = {.num_ranks = shape.num_ranks,
                         .num_local_experts = shape.num_local_experts(),
                         .max_tokens = state().num_tokens,
                         .num_topk = shape.num_topk,
                         .do_expand = shape.do_expand};
  launch_.num_tokens = state().num_tokens;
  launch_.allow_multiple_reduction = group_.config.allow_multiple_reduction;
  launch_.dtype = request_.dtype;
  launch_.num_columns = request_.hidden;
  launch_.weight_bytes = request_.weight_dtype ? size_of(*request_.weight_dtype) : 0;
  launch_.bias[0] = bytes_of(args_.bias[0]);
  launch_.bias[1] = bytes_of(args_.bias[1]);
  launch_.out_x = static_cast<std::byte*>(result_.x.data());
  launch_.out_topk_weights = static_cast<std::byte*>(result_.topk_weights.data());
  return take_off(shape.num_local_experts(), [&](const Reports& reports) {
    launch_.reports = reports;
    check(launch_combine(launch_, group_.stream()), "launch a combine");
  });
}

}  // namespace flexep::cuda
