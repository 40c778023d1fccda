// SPDX-License-Identifier: Apache-2.0
//
// ElasticBuffer over one to three ranks, which are threads: any sequence of operations with any arguments.
// All ranks accept an operation, or all refuse it with an exception of flexep's; nobody hangs; afterwards a
// correct round trip works.
#include <stdexcept>

#include "elastic_buffer_rank.h"

namespace flexep::fuzz {
namespace {

constexpr std::chrono::seconds kTimeout{20};  // of operations that take microseconds: who comes to this hangs

/// As accepts(), for calls that all ranks make: a group that breaks is a finding.
template <typename Call>
bool all_may_refuse(Call call) {
  try {
    call();
  } catch (const TimeoutError& error) {
    throw std::logic_error(error.what());
  } catch (const TransportError& error) {
    throw std::logic_error(error.what());
  } catch (const Error&) {
    return false;
  }
  return true;
}

}  // namespace

void Rank::run_step() {
  switch (input_.in_range(0, 10)) {
    case 0:
    case 1:
    case 2:
      return dispatch(draw_fresh());
    case 3:
      if (!received_.empty()) dispatch(draw_cached());
      return;
    case 4:
    case 5:
      if (!received_.empty()) combine();
      return;
    case 6:
      return use_arena();
    case 7:
      return use_registrations();
    case 8:
      return round_trip_in_flight();
    case 9:
      return meet();
    default:
      if (!received_.empty()) received_.erase(received_.begin());
  }
}

void Rank::dispatch(DispatchArgs args) {
  spoil(args);
  DispatchResult result;
  const bool accepted = all_may_refuse([&] {
    result = buffer_.dispatch(args);
    if (result.event) result.event.wait();
    // Without host sync this is where mistakes are told.
    if (!args.do_cpu_sync.value_or(true)) buffer_.check();
  });
  if (agreed(accepted)) received_.push_back(result);
}

void Rank::combine() {
  const DispatchResult& result = some_result();
  CombineArgs args{.x = result.x, .handle = result.handle};
  const DType dtype = draw_dtype(input_);
  const Shape shape{args.handle.num_rows(),
                    16 * input_.in_range(1, 3) / static_cast<std::int64_t>(size_of(dtype))};
  bool has_memory = true;
  switch (input_.in_range(0, 4)) {
    case 0:
      args.topk_weights = result.topk_weights;
      break;
    case 1:
      has_memory = accepts([&] { args.x = buffer_.empty(shape, dtype); });
      if (has_memory && args.x.num_bytes() > 0) std::memset(args.x.data(), 0, args.x.num_bytes());
      break;
    case 2:
      if (static_cast<std::size_t>(shape.num_elements()) * size_of(dtype) <= Pages::kNumBytes)
        args.x = Tensor::from_memory(pages_.data(), shape, dtype);
      break;
    default:
      args.x = with_some_strides(input_, shape, dtype);
  }
  for (Tensor& bias : args.bias) {
    const bool has_bias = input_.rarely();
    if (has_bias)
      bias = with_some_strides(input_, {args.handle.num_tokens(), args.x.size(1)}, args.x.dtype());
  }
  args.num_sms = input_.in_range(0, 2);
  draw_streams(args);
  spoil(args);
  agreed(all_may_refuse([&] {
    const CombineResult combined = buffer_.combine(args);
    if (combined.event) combined.event.wait();
    promise(combined.x.size(0) == args.handle.num_tokens());
  }));
}

/// A dispatch, cached or not, and a combine of what it will bring, both in flight before anybody waits.
void Rank::round_trip_in_flight() {
  const bool is_cached = input_.flag() && !received_.empty();
  DispatchArgs args = is_cached ? draw_cached() : draw_fresh();
  args.async_with_compute_stream = true;
  spoil(args);
  DispatchResult received;
  const bool has_begun = all_may_refuse([&] { received = buffer_.dispatch(args); });
  // Where nobody waits for counts, a mistake is thrown at once by the rank that made it, and by it alone.
  if (all(has_begun)) {
    agreed(all_may_refuse([&] {
      CombineArgs back{.x = received.x, .handle = received.handle};
      back.async_with_compute_stream = true;
      const CombineResult combined = buffer_.combine(back);
      if (combined.event) combined.event.wait();
    }));
  }
  if (received.event) all_may_refuse([&] { received.event.wait(); });
  all_may_refuse([&] { buffer_.check(); });
}

void Rank::meet() {
  if (input_.flag()) all_may_refuse([&] { buffer_.check(); });
  agreed(all_may_refuse([&] { buffer_.barrier(); }));
}

/// Each rank on its own.
void Rank::use_arena() {
  const DType dtype = draw_dtype(input_);
  switch (input_.in_range(0, 2)) {
    case 0:
      accepts([&] {
        const Shape shape = draw_shape(input_);
        const bool is_large = shape.num_elements() > 1 << 20;
        if (!is_large || config_.max_arena_bytes > 0) blocks_.push_back(buffer_.empty(shape, dtype));
      });
      break;
    case 1:
      blocks_.clear();
      break;
    default:
      promise(buffer_.trim() >= 0 && buffer_.arena_bytes() >= 0);
  }
  promise(accepts([&] { buffer_.counters(); }));
}

/// Each rank on its own: whole pages, pieces of pages, pages that are registered already.
void Rank::use_registrations() {
  if (input_.flag()) return registrations_.clear();
  const auto begin = input_.one_of<std::size_t>({0, 0, Pages::kPageBytes, 64});
  const auto num_bytes =
      input_.one_of<std::size_t>({Pages::kNumBytes, Pages::kPageBytes, 2 * Pages::kPageBytes, 100, 0});
  accepts([&] {
    registrations_.push_back(
        buffer_.register_memory(pages_.data() + begin, std::min(num_bytes, Pages::kNumBytes - begin)));
  });
}

/// Only where the configuration says so; then nothing works any more.
void Rank::destroy() {
  promise(agreed(all_may_refuse([&] { buffer_.destroy(); })) == config_.explicitly_destroy);
  if (config_.explicitly_destroy) promise(!accepts([&] { buffer_.barrier(); }));
}

/// What no refusal before may have spoilt.
void Rank::check_round_trip() {
  const std::vector<float> rows = {1, 2, 3, 4, 5, 6, 7, static_cast<float>(outcomes_.rank())};
  const std::vector<std::int64_t> ids = {outcomes_.num_ranks() - 1, -1};
  const Tensor x = Tensor::from_values(std::span(rows), {2, 4});
  const auto received = buffer_.dispatch({.x = x,
                                          .topk_idx = Tensor::from_values(std::span(ids), {2, 1}),
                                          .num_experts = outcomes_.num_ranks(),
                                          .num_max_tokens_per_rank = 2});
  const auto combined = buffer_.combine({.x = received.x, .handle = received.handle});
  promise(std::memcmp(combined.x.data(), x.data(), 4 * sizeof(float)) == 0);
  promise(combined.x.values<float>()[7] == 0);
}

}  // namespace flexep::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using flexep::fuzz::FuzzInput;
  using flexep::fuzz::Rank;
  FuzzInput input(data, size);
  const int num_ranks = input.in_range(1, 3);
  flexep::in_process(num_ranks,
                     [&](flexep::Communicator& comm) {
                       std::unique_ptr<Rank> rank;
                       if (flexep::fuzz::all_may_refuse([&] { rank = std::make_unique<Rank>(input, comm); }))
                         rank->run();
                     },
                     {.timeout = flexep::fuzz::kTimeout});
  return 0;
}
