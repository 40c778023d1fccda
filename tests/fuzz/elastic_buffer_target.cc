// SPDX-License-Identifier: Apache-2.0
//
// ElasticBuffer over one to three ranks, which are threads: any sequence of operations with any arguments.
// All ranks accept an operation, or all refuse it with an exception of flexep's; nobody hangs; afterwards a
// correct round trip works.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "arbitrary_tensor.h"
#include "flexep/elastic_buffer.h"

namespace flexep::fuzz {
namespace {

constexpr std::chrono::seconds kTimeout{20};  // of operations that take microseconds: who comes to this hangs
constexpr int kMaxSteps = 6;

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

ElasticBufferConfig draw_config(FuzzInput& input) {
  return {.num_max_tokens_per_rank = input.rarely() ? input.integer<int>() : input.in_range(0, 9),
          .hidden = input.rarely() ? input.integer<int>() : 64,
          .num_topk = input.rarely() ? input.integer<int>() : 4,
          .allow_multiple_reduction = input.flag(),
          .num_sms = input.in_range(0, 3),
          .max_arena_bytes = input.one_of<std::int64_t>({0, 0, 4096, 1 << 16, 1 << 24}),
          .explicitly_destroy = input.flag()};
}

/// Memory of the caller's own that may be registered.
class Pages {
 public:
  static constexpr std::size_t kPageBytes = 4096;
  static constexpr std::size_t kNumBytes = 4 * kPageBytes;

  Pages() : memory_(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, kNumBytes))) {
    std::memset(memory_.get(), 0, kNumBytes);
  }
  std::byte* data() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
};

/// One rank. All ranks read the same bytes and so make the same calls; where the bytes say so, some of them
/// with an argument of their own.
class Rank {
 public:
  Rank(const FuzzInput& input, const Communicator& comm)
      : input_(input),
        outcomes_(comm),
        config_(draw_config(input_)),
        may_bound_outputs_(config_.num_max_tokens_per_rank > 0 && config_.num_max_tokens_per_rank < 16),
        buffer_(comm, config_) {}

  void run() {
    accepts([&] { promise(buffer_.num_bytes() >= 0); });
    for (int step = 0; step < kMaxSteps && !input_.is_empty(); ++step) run_step();
    const bool has_room = config_.max_arena_bytes == 0 || config_.max_arena_bytes >= 1 << 24;
    received_.clear();
    if (has_room) check_round_trip();
    if (config_.explicitly_destroy || input_.rarely()) destroy();
  }

 private:
  void run_step();
  void dispatch(DispatchArgs args);
  void combine();
  void round_trip_in_flight();
  void meet();
  void use_arena();
  void use_registrations();
  void destroy();
  void check_round_trip();

  DispatchArgs draw_fresh();
  DispatchArgs draw_cached();
  void draw_rows(DispatchArgs& args, int num_tokens);
  Tensor draw_ids(int num_tokens, int num_topk, int num_experts);
  template <typename Args>
  void draw_streams(Args& args);
  void spoil(DispatchArgs& args);
  void spoil(CombineArgs& args);
  const DispatchResult& some_result() { return received_[input_.byte() % received_.size()]; }
  bool is_among(int ranks) const { return (ranks >> outcomes_.rank() & 1) != 0; }

  /// What one rank refuses, all refuse.
  bool agreed(bool accepted) {
    promise(all(accepted) == accepted);
    return accepted;
  }
  bool all(bool mine) {
    const auto outcomes = outcomes_.all_gather(static_cast<char>(mine));
    return std::all_of(outcomes.begin(), outcomes.end(), [](char each) { return each != 0; });
  }

  FuzzInput input_;
  Communicator outcomes_;
  ElasticBufferConfig config_;
  bool may_bound_outputs_;  ///< whether outputs without host sync are small enough to try
  ElasticBuffer buffer_;
  std::vector<DispatchResult> received_;
  std::vector<Tensor> blocks_;
  Pages pages_;
  std::vector<RegisteredMemory> registrations_;
};

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

DispatchArgs Rank::draw_fresh() {
  const int num_experts = outcomes_.num_ranks() * input_.in_range(1, 4);
  const int num_topk = std::min(num_experts, input_.in_range(1, 4));
  int num_tokens = 0;
  for (int rank = 0; rank < outcomes_.num_ranks(); ++rank) {
    const int tokens_of_rank = input_.in_range(0, 9);
    if (rank == outcomes_.rank()) num_tokens = tokens_of_rank;
  }
  DispatchArgs args;
  draw_rows(args, num_tokens);
  args.topk_idx = draw_ids(num_tokens, num_topk, num_experts);
  if (input_.flag()) args.topk_weights = with_some_strides(input_, {num_tokens, num_topk}, DType::kFloat32);
  args.num_experts = num_experts;
  args.expert_alignment = input_.one_of({0, 1, 3, 16});
  args.do_expand = input_.flag();
  args.do_zero_padding = input_.flag() && *args.do_expand;
  args.use_tma_aligned_col_major_sf = input_.flag();
  args.do_handle_copy = input_.flag();
  args.max_recv_tokens = input_.rarely() ? input_.in_range(0, 20) : 0;
  args.do_cpu_sync = !(may_bound_outputs_ && input_.flag());
  args.check_weights = input_.flag();
  if (input_.flag()) {
    args.cumulative_local_expert_recv_stats =
        Tensor::zeros({num_experts / outcomes_.num_ranks()}, DType::kInt32);
  }
  return args;
}

DispatchArgs Rank::draw_cached() {
  DispatchArgs args;
  args.handle = some_result().handle;
  draw_rows(args, args.handle.num_tokens());
  return args;
}

void Rank::draw_rows(DispatchArgs& args, int num_tokens) {
  const DType dtype = draw_dtype(input_);
  const std::int64_t hidden = input_.in_range(1, 5) * 16 / static_cast<std::int64_t>(size_of(dtype));
  args.x = with_some_strides(input_, {num_tokens, hidden}, dtype);
  if (input_.flag())
    args.sf = with_some_strides(input_, {num_tokens, input_.in_range(1, 3)}, DType::kFloat32);
  args.num_sms = input_.in_range(0, 2);
  draw_streams(args);
}

/// Distinct ids, some of them -1; rarely one that may be anything.
Tensor Rank::draw_ids(int num_tokens, int num_topk, int num_experts) {
  const int first = input_.byte(), unrouted = input_.in_range(2, 7);
  std::vector<std::int64_t> ids;
  for (int token = 0; token < num_tokens; ++token) {
    for (int k = 0; k < num_topk; ++k) {
      const bool is_routed = (token + k) % unrouted != 0;
      ids.push_back(is_routed ? (first + token * 5 + k + outcomes_.rank()) % num_experts : -1);
    }
  }
  if (input_.rarely()) {
    const int ranks = input_.byte();
    const std::size_t pair = input_.byte();
    const auto id = input_.integer<std::int64_t>();
    if (is_among(ranks) && !ids.empty()) ids[pair % ids.size()] = id;
  }
  const Shape shape{num_tokens, num_topk};
  if (input_.flag()) return Tensor::from_values(std::span<const std::int64_t>(ids), shape);
  std::vector<std::int32_t> narrow;
  for (const std::int64_t id : ids) narrow.push_back(static_cast<std::int32_t>(id));
  return Tensor::from_values(std::span<const std::int32_t>(narrow), shape);
}

template <typename Args>
void Rank::draw_streams(Args& args) {
  args.async_with_compute_stream = input_.flag();
  args.allocate_on_comm_stream = input_.flag();
  if (input_.rarely()) args.previous_event = ElasticBuffer::capture();
  if (input_.rarely()) args.previous_event_before_epilogue = ElasticBuffer::capture();
}

void Rank::spoil(DispatchArgs& args) {
  if (!input_.rarely()) return;
  const int ranks = input_.byte();
  DispatchArgs spoiled = args;
  switch (input_.in_range(0, 15)) {
    case 0:
      spoiled.x = draw_tensor(input_);
      break;
    case 1:
      spoiled.sf = draw_tensor(input_);
      break;
    case 2:
      spoiled.topk_idx = draw_tensor(input_);
      break;
    case 3:
      spoiled.topk_weights = draw_tensor(input_);
      break;
    case 4:
      spoiled.cumulative_local_expert_recv_stats = draw_tensor(input_);
      break;
    case 5:
      spoiled.num_experts = input_.integer<int>();
      break;
    case 6:
      spoiled.expert_alignment = input_.integer<int>();
      break;
    case 7:
      spoiled.num_max_tokens_per_rank = input_.integer<int>();
      break;
    case 8:
      spoiled.num_sms = input_.one_of({-1, 3, 1025, 1 << 30});
      break;
    case 9:
      spoiled.max_recv_tokens = input_.integer<int>();
      break;
    case 10:
      spoiled.do_expand = input_.flag();
      break;
    case 11:
      spoiled.do_zero_padding = input_.flag();
      break;
    case 12:
      spoiled.use_tma_aligned_col_major_sf = input_.flag();
      break;
    case 13:
      if (may_bound_outputs_) spoiled.do_cpu_sync = input_.flag();
      break;
    case 14:
      spoiled.num_qps = input_.integer<int>();
      break;
    default:
      if (!received_.empty()) spoiled.handle = some_result().handle;
  }
  if (is_among(ranks)) args = spoiled;
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

void Rank::spoil(CombineArgs& args) {
  if (!input_.rarely()) return;
  const int ranks = input_.byte();
  CombineArgs spoiled = args;
  switch (input_.in_range(0, 4)) {
    case 0:
      spoiled.x = draw_tensor(input_);
      break;
    case 1:
      spoiled.topk_weights = draw_tensor(input_);
      break;
    case 2:
      spoiled.bias[1] = draw_tensor(input_);
      break;
    case 3:
      spoiled.num_sms = input_.one_of({-1, 3, 1025, 1 << 30});
      break;
    default:
      spoiled.handle = input_.flag() ? DispatchHandle() : some_result().handle;
  }
  if (is_among(ranks)) args = spoiled;
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

}  // namespace
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
