// SPDX-License-Identifier: Apache-2.0
#include "cuda/stress/stress_rank.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "flexep/cuda.h"

namespace flexep::stress {
namespace {

using testing::require;

/// Holds the rows of all rounds but the largest.
constexpr std::size_t kRegisteredBytes = std::size_t{8} << 20;

/// Before anything is made that belongs to a GPU.
Device now_used(Device gpu) {
  require(cudaSetDevice(gpu.index), "cudaSetDevice");
  return gpu;
}

Rows rows_of(const Tensor& x, int num_rows) {
  return {.data = x.data(), .dtype = x.dtype(), .num_rows = num_rows, .hidden = static_cast<int>(x.size(1))};
}

void fill(const Tensor& tensor, int byte) {
  if (!tensor || tensor.num_bytes() == 0) return;
  require(cudaMemsetAsync(tensor.data(), byte, tensor.num_bytes(), cuda::current_stream()), "cudaMemset");
}

}  // namespace

StressRank::StressRank(const Communicator& comm, Device gpu, std::uint64_t seed, ArenaMemory arena_memory)
    : comm_(comm), gpu_(now_used(gpu)), seed_(seed) {
  require(cudaMalloc(reinterpret_cast<void**>(&findings_), sizeof(Findings)), "cudaMalloc");
  require(cudaMemset(findings_, 0, sizeof(Findings)), "cudaMemset");
  for (auto& memory : memory_to_register_) {
    void* begin = nullptr;
    require(cudaMalloc(&begin, kRegisteredBytes), "cudaMalloc");
    memory = {static_cast<std::byte*>(begin), [](std::byte* freed) { cudaFree(freed); }};
  }
  load_row_kernels();
  for (cudaStream_t& stream : streams_) {
    require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    sleep_on_device(1, stream);
    require(cudaStreamSynchronize(stream), "first use of a stream");
  }
  comm_.barrier();  // before the first kernel that waits for another rank
  for (std::size_t i = 0; i < buffers_.size(); ++i) {
    buffers_[i] = std::make_unique<ElasticBuffer>(
        comm_, ElasticBufferConfig{.device = gpu_,
                                   .num_max_tokens_per_rank = kNoSyncMaxTokens,
                                   .allow_multiple_reduction = i == 0,
                                   .arena_memory = arena_memory});
    registrations_[i] = buffers_[i]->register_memory(memory_to_register_[i].get(), kRegisteredBytes);
  }
}

StressRank::~StressRank() {
  pending_.clear();
  for (auto& registration : registrations_) registration = {};
  for (auto& buffer : buffers_) buffer.reset();
  for (cudaStream_t stream : streams_) cudaStreamSynchronize(stream);
  // Streams outlive the tensors that were used on them.
  for (RoundMemory& memory : memories_) memory.begin();
  for (cudaStream_t stream : streams_) cudaStreamDestroy(stream);
  cudaFree(findings_);
}

void StressRank::run(const Round& round) {
  const Manner manner = draw_manner(seed_, round.idx, rank());
  memory_ = &memories_[static_cast<std::size_t>(round.idx) % memories_.size()];
  memory_->begin();
  std::this_thread::sleep_for(std::chrono::microseconds(manner.host_sleep_us));
  dispatch(round, manner);
  for (std::size_t i = 0; i < pending_.size();) {
    if (pending_[i].round.idx + pending_[i].round.num_rounds_until_combine > round.idx) {
      ++i;
      continue;
    }
    combine(pending_[i]);
    pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  constexpr int kRoundsBetweenChecks = 64;
  if (round.idx % kRoundsBetweenChecks == 0)
    for (auto& buffer : buffers_) buffer->check();
}

void StressRank::finish() {
  for (; !pending_.empty(); pending_.pop_front()) combine(pending_.front());
  for (auto& buffer : buffers_) buffer->barrier();
  for (cudaStream_t stream : streams_) require(cudaStreamSynchronize(stream), "the last round");
}

Tensor StressRank::upload(const void* pinned, const Shape& shape, DType dtype) {
  const Tensor tensor = cuda::empty(shape, dtype, gpu_);
  if (tensor.num_bytes() == 0) return tensor;
  require(cudaMemcpyAsync(tensor.data(), pinned, tensor.num_bytes(), cudaMemcpyHostToDevice,
                          cuda::current_stream()),
          "upload");
  return tensor;
}

StressRank::Inputs StressRank::make_inputs(const Round& round, const Manner& manner, bool is_cached) {
  const int num_tokens = round.num_tokens(rank());
  const Shape shape{num_tokens, round.hidden};
  Inputs inputs;
  inputs.x = manner.has_arena_input ? buffer(round).empty(shape, round.dtype)
                                    : cuda::empty(shape, round.dtype, gpu_);
  write_rows(rows_of(inputs.x, num_tokens), round.content(is_cached), rank(), cuda::current_stream());
  const Shape pairs{num_tokens, round.num_topk};
  if (!is_cached)
    inputs.topk_idx =
        upload(memory_->copy(round.topk_idx[static_cast<std::size_t>(rank())]), pairs, DType::kInt64);
  if (round.has_weights) {
    std::vector<float> weights;
    for (int token = 0; token < num_tokens; ++token)
      for (int column = 0; column < round.num_topk; ++column)
        weights.push_back(round.topk_weight(rank(), token, column));
    inputs.topk_weights = upload(memory_->copy(weights), pairs, DType::kFloat32);
  }
  return inputs;
}

// The next output is likely to get memory that was filled here.
void StressRank::poison_free_memory(const Round& round, std::size_t num_bytes) {
  constexpr std::size_t kMaxBytes = std::size_t{4} << 20;
  const auto size = static_cast<std::int64_t>(std::min(num_bytes + 4096, kMaxBytes));
  fill(buffer(round).empty({size}, DType::kUInt8), 0xEE);
}

void StressRank::spoil(const Tensor& tensor) {
  fill(tensor, 0xDD);
}

void StressRank::dispatch(const Round& round, const Manner& manner) {
  const ExpectedDispatch expected = expected_dispatch(round, rank());
  const cuda::StreamGuard guard(stream(manner.stream_idx));
  const cudaStream_t other_stream = stream(1 - manner.stream_idx);
  if (manner.device_sleep_us > 0) sleep_on_device(manner.device_sleep_us, cuda::current_stream());
  poison_free_memory(round,
                     expected.rows.size() * static_cast<std::size_t>(round.hidden) * size_of(round.dtype));

  Inputs inputs;
  Event inputs_are_there;
  if (manner.follows_other_stream) {
    const cuda::StreamGuard on_other_stream(other_stream);
    inputs = make_inputs(round, manner, /*is_cached=*/false);
    inputs_are_there = cuda::capture();
  } else {
    inputs = make_inputs(round, manner, /*is_cached=*/false);
  }
  DispatchResult received = buffer(round).dispatch({.x = inputs.x,
                                                    .topk_idx = inputs.topk_idx,
                                                    .topk_weights = inputs.topk_weights,
                                                    .num_experts = round.num_experts,
                                                    .expert_alignment = round.expert_alignment,
                                                    .num_sms = manner.num_sms,
                                                    .do_expand = round.do_expand,
                                                    .do_zero_padding = round.do_zero_padding,
                                                    .do_cpu_sync = round.do_cpu_sync,
                                                    .async_with_compute_stream = manner.is_async,
                                                    .previous_event = inputs_are_there,
                                                    .allocate_on_comm_stream = bool(inputs_are_there)});
  if (!manner.is_async && !manner.follows_other_stream) spoil(inputs.x);
  inputs = {};
  check_counts(round, expected, received);

  const cuda::StreamGuard checking(manner.is_async ? other_stream : stream(manner.stream_idx));
  if (manner.is_async) cuda::wait(received.event);
  check_dispatch(round, expected, received, /*is_cached=*/false);
  if (round.repeats_cached) dispatch_cached(round, manner, received.handle);
  // What arrived needs no keeping: it goes behind the combine, which follows all of this.
  pending_.push_back({.round = round,
                      .manner = manner,
                      .memory = memory_,
                      .received = std::move(received),
                      .expert_scales = memory_->copy(expected.expert_scales),
                      .num_rows = static_cast<int>(expected.rows.size()),
                      .event = cuda::capture()});
}

void StressRank::dispatch_cached(const Round& round, const Manner& manner, const DispatchHandle& handle) {
  const ExpectedDispatch expected = expected_dispatch(round, rank());
  poison_free_memory(round,
                     expected.rows.size() * static_cast<std::size_t>(round.hidden) * size_of(round.dtype));
  Inputs inputs = make_inputs(round, manner, /*is_cached=*/true);
  const DispatchResult received = buffer(round).dispatch(
      {.x = inputs.x, .topk_weights = inputs.topk_weights, .num_sms = manner.num_sms, .handle = handle});
  spoil(inputs.x);
  check_dispatch(round, expected, received, /*is_cached=*/true);
}

Tensor StressRank::expert_outputs(const Pending& pending) {
  const Tensor& x = pending.received.x;
  Tensor y = x;
  if (pending.manner.expert_output == ExpertOutput::kRegistered) {
    if (const Tensor place = registered(pending.round, x)) y = place;
  } else if (pending.manner.expert_output != ExpertOutput::kInPlace) {
    y = pending.manner.expert_output == ExpertOutput::kArena
            ? buffer(pending.round).empty(x.shape(), x.dtype())
            : cuda::empty(x.shape(), x.dtype(), gpu_);
    spoil(y);  // rows that no expert writes are never read
  }
  run_experts(rows_of(y, pending.num_rows), x.data(), pending.expert_scales, cuda::current_stream());
  return y;
}

// Used again by the next round that has it: this rank's combine before has ended in stream order, so that
// nobody reads it any more. What went before on the other stream has, too, once that has been waited for.
Tensor StressRank::registered(const Round& round, const Tensor& like) {
  const auto buffer_idx = static_cast<std::size_t>(round.buffer_idx);
  if (like.num_bytes() > kRegisteredBytes) return {};
  if (last_use_[buffer_idx]) cuda::wait(last_use_[buffer_idx]);
  const auto& memory = memory_to_register_[buffer_idx];
  return Tensor::from_memory(memory.get(), like.shape(), like.dtype(), memory, gpu_);
}

void StressRank::combine(Pending& pending) {
  const Round& round = pending.round;
  const Manner& manner = pending.manner;
  memory_ = pending.memory;
  const ExpectedCombine expected = expected_combine(round, rank());
  const cuda::StreamGuard guard(stream(manner.combine_stream_idx));
  cuda::wait(pending.event);
  Tensor y = expert_outputs(pending);
  CombineResult sums = buffer(round).combine({.x = y,
                                              .handle = pending.received.handle,
                                              .topk_weights = pending.received.topk_weights,
                                              .num_sms = manner.num_sms,
                                              .async_with_compute_stream = manner.is_combine_async});
  if (!manner.is_combine_async) spoil(y);
  if (manner.expert_output == ExpertOutput::kRegistered)
    last_use_[static_cast<std::size_t>(round.buffer_idx)] = sums.event ? sums.event : cuda::capture();
  y = {};
  pending.received = {};

  const cuda::StreamGuard checking(
      stream(manner.is_combine_async ? 1 - manner.combine_stream_idx : manner.combine_stream_idx));
  if (manner.is_combine_async) cuda::wait(sums.event);
  check_rows(round, sums.x, expected.rows, Checked::kCombine);
  if (round.has_weights)
    check_words(round, sums.topk_weights, expected.topk_weights, Checked::kCombinedWeights);
  // On a stream that the tensors do not know of.
  if (manner.is_combine_async) memory_->keep({sums.x, sums.topk_weights});
  memory_->end(streams_);
}

void StressRank::check_counts(const Round& round, const ExpectedDispatch& expected,
                              const DispatchResult& received) const {
  const auto num_rows = static_cast<std::int64_t>(expected.rows.size());
  const bool is_right =
      round.do_cpu_sync
          ? received.x.size(0) == num_rows &&
                std::ranges::equal(received.handle.num_recv_tokens_per_expert(), expected.num_per_expert)
          : received.x.size(0) >= num_rows;
  if (is_right) return;
  throw std::runtime_error(
      fmt::format("round {}, rank {}: recv.x has {} rows, {} were expected; or the counts of "
                  "experts differ",
                  round.idx, rank(), received.x.size(0), num_rows));
}

void StressRank::check_dispatch(const Round& round, const ExpectedDispatch& expected,
                                const DispatchResult& received, bool is_cached) {
  check_rows(round, received.x, expected.rows, is_cached ? Checked::kCachedDispatch : Checked::kDispatch);
  if (!round.do_expand) check_words(round, received.topk_idx, expected.topk_idx, Checked::kTopkIdx);
  // Weights of gaps are nobody's, unless they were to be zeroed.
  const bool has_gaps = round.do_expand && !round.do_zero_padding && round.expert_alignment > 1;
  if (round.has_weights && !has_gaps)
    check_words(round, received.topk_weights, expected.topk_weights, Checked::kTopkWeights);
}

void StressRank::check_rows(const Round& round, const Tensor& x, const std::vector<ExpectedRow>& rows,
                            Checked what) {
  count_wrong_rows(rows_of(x, static_cast<int>(rows.size())), memory_->copy(rows),
                   round.content(what == Checked::kCachedDispatch), what, findings_, cuda::current_stream());
  num_to_compare_ += rows.size();
}

template <typename T>
void StressRank::check_words(const Round& round, const Tensor& got, const std::vector<T>& expected,
                             Checked what) {
  const auto num_words = static_cast<int>(expected.size() * sizeof(T) / sizeof(std::uint32_t));
  count_wrong_words(got.data(), memory_->copy(expected), num_words, round.content(), what, findings_,
                    cuda::current_stream());
  num_to_compare_ += static_cast<unsigned long long>(num_words);
}

Findings StressRank::findings() const {
  Findings findings;
  require(cudaMemcpyAsync(&findings, findings_, sizeof(Findings), cudaMemcpyDeviceToHost, stream(0)),
          "read what was found");
  require(cudaStreamSynchronize(stream(0)), "read what was found");
  return findings;
}

bool StressRank::would_notice() {
  const Round round = draw_round(seed_, 0, comm_.num_ranks());
  const cuda::StreamGuard guard(stream(0));
  const Tensor x = cuda::empty({3, 64}, DType::kBFloat16, gpu_);
  write_rows(rows_of(x, 3), round.content(), rank(), stream(0));
  std::vector<ExpectedRow> expected;
  for (int token = 0; token < 3; ++token) expected.push_back({.src_rank = rank(), .token = token});
  // No small integer has this in the lower half of its mantissa.
  require(cudaMemsetAsync(static_cast<std::byte*>(x.data()) + 2 * (64 + 7), 1, 1, stream(0)), "cudaMemset");
  const unsigned long long num_before = findings().num_wrong;
  memory_->begin();
  check_rows(round, x, expected, Checked::kDispatch);
  return findings().num_wrong == num_before + 1;
}

}  // namespace flexep::stress
