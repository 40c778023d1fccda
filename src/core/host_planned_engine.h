// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>

#include "core/buffer_engine.h"
#include "core/communication_thread.h"
#include "core/engine.h"
#include "core/staged_device.h"

namespace flexep {

class DispatchOperation;

/// Numbers the operations and runs them in order, on the caller's thread or on the communication thread.
class HostPlannedEngine final : public BufferEngine {
 public:
  /// @param device  for whose copies the arena's memory is pinned; null = nobody's.
  HostPlannedEngine(const Communicator& comm, const ElasticBufferConfig& config,
                    const std::shared_ptr<StagedDevice>& device = nullptr);
  ~HostPlannedEngine() override;

  const ElasticBufferConfig& config() const override { return engine_.config; }
  const RankContext& context() const { return engine_.context; }
  int rank() const override { return engine_.rank(); }
  int num_ranks() const override { return engine_.num_ranks(); }
  DomainSize physical_domain_size() const override;
  int num_max_tokens_per_rank() const override { return engine_.context.default_num_max_tokens_per_rank; }
  bool supports_async() const override { return engine_.transport->can_work_in_background(); }

  DispatchResult dispatch(const DispatchArgs& args) override { return dispatch(args, nullptr); }
  CombineResult combine(const CombineArgs& args) override { return combine(args, nullptr); }
  /// @param refusal  why this rank takes no part, unless null: thrown here, and the other ranks hear of it.
  DispatchResult dispatch(const DispatchArgs& args, const std::exception_ptr& refusal);
  CombineResult combine(const CombineArgs& args, const std::exception_ptr& refusal);

  void barrier() override;
  void check() override;
  /// Waits for the operations in flight.
  void drain();

  std::shared_ptr<void> register_memory(void* memory, std::size_t num_bytes) override;
  Tensor empty(const Shape& shape, DType dtype) override;

  BufferCounters counters() const override { return engine_.meter.read(); }
  std::int64_t arena_bytes() const override { return static_cast<std::int64_t>(engine_.arena->num_bytes()); }
  std::int64_t trim() override { return static_cast<std::int64_t>(engine_.arena->trim()); }

 private:
  Event submit_and_await_counts(const std::shared_ptr<DispatchOperation>& operation);
  void await(const Event& event);
  template <typename WaitFor>
  void wait_in_slices(WaitFor wait_for);
  template <typename Work>
  void guarded(Work work);

  Engine engine_;
  std::uint64_t sequence_number_ = 0;
  // Last: its destructor finishes what is in flight.
  CommunicationThread communication_;
};

}  // namespace flexep
