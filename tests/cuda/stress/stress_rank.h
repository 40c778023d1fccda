// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <optional>

#include "cuda/stress/expected_rows.h"
#include "cuda/stress/round.h"
#include "cuda/stress/round_memory.h"
#include "cuda/stress/row_kernels.h"
#include "flexep/elastic_buffer.h"

namespace flexep::stress {

/// One rank's part of all rounds. Outputs are compared on the device, on whatever stream they are on, while
/// later rounds are enqueued; free arena memory is filled with garbage before each dispatch, and inputs as
/// soon as that is allowed.
class StressRank {
 public:
  /// Collective.
  StressRank(const Communicator& comm, Device gpu, std::uint64_t seed, ArenaMemory arena_memory);
  ~StressRank();

  /// The dispatches of the round, and the combines that are due. Collective.
  void run(const Round& round);
  /// The combines that are left; returns when everything has been compared. Collective.
  void finish();
  /// Whether the comparison finds one wrong bit. After finish().
  bool would_notice();
  /// After finish().
  Findings findings() const;
  /// What should have been compared.
  unsigned long long num_to_compare() const { return num_to_compare_; }

 private:
  struct Inputs {
    Tensor x;
    Tensor topk_idx;
    Tensor topk_weights;
  };
  /// A dispatch whose combine is still to come.
  struct Pending {
    Round round;
    Manner manner;
    RoundMemory* memory;
    DispatchResult received;
    const float* expert_scales;
    int num_rows;
    Event event;  ///< everything before the experts
  };

  int rank() const { return comm_.rank(); }
  cudaStream_t stream(int idx) const { return streams_[static_cast<std::size_t>(idx)]; }
  ElasticBuffer& buffer(const Round& round) { return *buffers_[static_cast<std::size_t>(round.buffer_idx)]; }

  Inputs make_inputs(const Round& round, const Manner& manner, bool is_cached);
  Tensor upload(const void* pinned, const Shape& shape, DType dtype);
  void dispatch(const Round& round, const Manner& manner);
  void dispatch_cached(const Round& round, const Manner& manner, const DispatchHandle& handle);
  void combine(Pending& pending);
  Tensor expert_outputs(const Pending& pending);
  /// In registered memory; none where it does not fit.
  Tensor registered(const Round& round, const Tensor& like);
  void poison_free_memory(const Round& round, std::size_t num_bytes);
  static void spoil(const Tensor& tensor);

  void check_counts(const Round& round, const ExpectedDispatch& expected,
                    const DispatchResult& received) const;
  void check_dispatch(const Round& round, const ExpectedDispatch& expected, const DispatchResult& received,
                      bool is_cached);
  void check_rows(const Round& round, const Tensor& x, const std::vector<ExpectedRow>& rows, Checked what);
  template <typename T>
  void check_words(const Round& round, const Tensor& got, const std::vector<T>& expected, Checked what);

  Communicator comm_;
  Device gpu_;
  std::uint64_t seed_;
  Streams streams_{};
  std::array<std::shared_ptr<std::byte>, kNumBuffers>
      memory_to_register_;  ///< freed when nothing is in flight
  std::array<std::unique_ptr<ElasticBuffer>, kNumBuffers> buffers_;
  std::array<RegisteredMemory, kNumBuffers> registrations_;
  std::array<RoundMemory, kMaxDelay + 5> memories_;
  RoundMemory* memory_ = nullptr;  ///< of the round that is being enqueued
  std::deque<Pending> pending_;
  std::array<Event, kNumBuffers> last_use_;  ///< of registered memory
  Findings* findings_ = nullptr;             ///< in device memory
  unsigned long long num_to_compare_ = 0;
};

}  // namespace flexep::stress
