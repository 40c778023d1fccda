// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <future>
#include <memory>
#include <utility>

#include "common/check.h"
#include "core/buffer_engine.h"
#include "core/communication_thread.h"
#include "core/host_planned_engine.h"
#include "core/staged_combine.h"
#include "core/staged_device.h"
#include "core/staged_dispatch.h"

namespace flexep {
namespace {

ElasticBufferConfig on_host(ElasticBufferConfig config) {
  config.device = Device::host();
  config.arena_memory = ArenaMemory::kDevice;
  return config;
}

Event event_that_has_come() {
  std::promise<void> come;
  come.set_value();
  return Event(come.get_future().share());
}

/// Lets the host move copies of the device's tensors. An operation is complete when it returns, or its event
/// has come.
class HostStagedEngine final : public BufferEngine {
 public:
  HostStagedEngine(const Communicator& comm, const ElasticBufferConfig& config,
                   std::shared_ptr<StagedDevice> device)
      : device_(std::move(device)),
        host_(comm, on_host(config), device_),
        context_(host_.context()),
        config_(host_.config()) {
    config_.device = context_.device = config.device;
  }

  const ElasticBufferConfig& config() const override { return config_; }
  int rank() const override { return host_.rank(); }
  int num_ranks() const override { return host_.num_ranks(); }
  DomainSize physical_domain_size() const override { return host_.physical_domain_size(); }
  int num_max_tokens_per_rank() const override { return host_.num_max_tokens_per_rank(); }
  bool supports_async() const override { return host_.supports_async(); }

  DispatchResult dispatch(const DispatchArgs& args) override {
    const auto operation = std::make_shared<StagedDispatch>(*device_, host_, context_, args);
    DispatchResult result = carry_out(operation, args.async_with_compute_stream);
    // As on a GPU that plans for itself, somebody has to wait for the counts, and be it later.
    if (operation->defers_counts() && !result.event) result.event = event_that_has_come();
    return result;
  }

  CombineResult combine(const CombineArgs& args) override {
    return carry_out(std::make_shared<StagedCombine>(*device_, host_, context_, args),
                     args.async_with_compute_stream);
  }

  void barrier() override {
    drain();
    host_.barrier();
  }
  void check() override {
    drain();
    host_.check();
  }

  // Rows of the device are copied to where the other ranks read them, wherever they are.
  std::shared_ptr<void> register_memory(void* memory, std::size_t num_bytes) override {
    require_argument(memory != nullptr && num_bytes > 0, "memory", "there is no memory to register");
    return {memory, [](void*) {}};
  }
  Tensor empty(const Shape& shape, DType dtype) override { return device_->empty(shape, dtype); }

  BufferCounters counters() const override { return host_.counters(); }
  std::int64_t arena_bytes() const override { return host_.arena_bytes() + device_->num_bytes(); }
  std::int64_t trim() override { return host_.trim(); }

 private:
  template <typename Operation>
  typename Operation::Result carry_out(const std::shared_ptr<Operation>& operation, bool is_async) {
    if (!is_async) drain();
    operation->run();
    typename Operation::Result result = operation->result();
    if (is_async) {
      result.event = results_.submit([operation] { operation->finish(); });
    } else {
      operation->finish();
    }
    return result;
  }

  void drain() {
    host_.drain();
    while (!results_.drain_for(std::chrono::seconds(1))) {
    }
  }

  std::shared_ptr<StagedDevice> device_;
  HostPlannedEngine host_;
  RankContext context_;
  ElasticBufferConfig config_;
  // Last: its destructor finishes what is in flight.
  CommunicationThread results_{false};
};

}  // namespace

std::unique_ptr<BufferEngine> make_host_staged_engine(const Communicator& comm,
                                                      const ElasticBufferConfig& config,
                                                      std::shared_ptr<StagedDevice> device) {
  return std::make_unique<HostStagedEngine>(comm, config, std::move(device));
}

}  // namespace flexep
