// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "arbitrary_tensor.h"
#include "flexep/elastic_buffer.h"

namespace flexep::fuzz {

constexpr int kMaxSteps = 6;

ElasticBufferConfig draw_config(FuzzInput& input);

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

template <typename Args>
void Rank::draw_streams(Args& args) {
  args.async_with_compute_stream = input_.flag();
  args.allocate_on_comm_stream = input_.flag();
  if (input_.rarely()) args.previous_event = ElasticBuffer::capture();
  if (input_.rarely()) args.previous_event_before_epilogue = ElasticBuffer::capture();
}

}  // namespace flexep::fuzz
