// SPDX-License-Identifier: Apache-2.0
#include <mutex>
#include <type_traits>
#include <utility>

#include "backend/cuda/capture.h"
#include "backend/cuda/check_cuda.h"
#include "core/buffer_engine.h"
#include "core/deferred_error.h"
#include "cuda_engine/combine.h"
#include "cuda_engine/device_group.h"
#include "cuda_engine/dispatch.h"
#include "cuda_engine/flight.h"
#include "cuda_engine/nvtx_range.h"
#include "flexep/cuda.h"
#include "flexep/error.h"

namespace flexep {
namespace {

/// Numbers the operations, puts them on the communication stream, and tells of their errors.
class DevicePlannedEngine final : public BufferEngine {
 public:
  DevicePlannedEngine(const Communicator& comm, const ElasticBufferConfig& config)
      : group_(comm, config), flights_(*group_.results) {}

  ~DevicePlannedEngine() override {
    try {
      const cuda::DeviceGuard guard(group_.device());
      const cuda::RelaxedCapture relaxed;
      flights_.drain();
    } catch (const Error&) {
      // The device has failed: nothing is in flight any more.
    }
    // Tensors may keep the arena, and with it the group, for long: nobody shall wait for this rank meanwhile.
    group_.transport->leave();
  }

  const ElasticBufferConfig& config() const override { return group_.config; }
  int rank() const override { return group_.rank(); }
  int num_ranks() const override { return group_.num_ranks(); }
  DomainSize physical_domain_size() const override { return {.num_scaleup_ranks = group_.num_ranks()}; }
  int num_max_tokens_per_rank() const override { return group_.context.default_num_max_tokens_per_rank; }
  bool supports_async() const override { return true; }

  DispatchResult dispatch(const DispatchArgs& args) override {
    return guarded(args.handle ? "cached dispatch" : "dispatch", [&] {
      collect();
      return cuda::Dispatch(group_, flights_, args, ++sequence_number_).run(unheard_);
    });
  }

  CombineResult combine(const CombineArgs& args) override {
    return guarded("combine", [&] {
      collect();
      return cuda::Combine(group_, flights_, args, ++sequence_number_).run();
    });
  }

  void barrier() override {
    guarded("barrier", [&] {
      const std::exception_ptr unheard = drain();
      Agreement(*group_.transport).exchange({"barrier", ++sequence_number_}, [&] {
        if (unheard) std::rethrow_exception(unheard);
        return ExchangeMessage{};
      });
    });
  }

  void check() override {
    guarded("check", [&] {
      if (const std::exception_ptr unheard = drain()) std::rethrow_exception(unheard);
    });
  }

  std::shared_ptr<void> register_memory(void* memory, std::size_t num_bytes) override {
    return guarded("register_memory", [&] {
      return group_.registrations->add({static_cast<std::byte*>(memory), num_bytes});
    });
  }

  Tensor empty(const Shape& shape, DType dtype) override {
    const cuda::DeviceGuard guard(group_.device());
    const cuda::RelaxedCapture relaxed;
    const auto num_bytes = static_cast<std::size_t>(shape.num_elements()) * size_of(dtype);
    const cudaStream_t stream = cuda::current_stream();
    auto block = group_.arena->reserve(num_bytes, stream);
    block.add_user(group_.stream());
    Tensor tensor = group_.arena->make_tensor(std::move(block), shape, dtype);
    if (cuda::is_captured(stream)) cuda::keep_with_graph_of(stream, tensor.owner());
    return tensor;
  }

  BufferCounters counters() const override {
    const cuda::DeviceGuard guard(group_.device());
    const cuda::RelaxedCapture relaxed;
    {
      const std::lock_guard lock(mutex_);
      keep(flights_.drain());
    }
    return group_.meter.read();
  }
  std::int64_t arena_bytes() const override {
    const std::size_t local = group_.local == group_.arena ? 0 : group_.local->num_bytes();
    return static_cast<std::int64_t>(group_.arena->num_bytes() + local);
  }
  std::int64_t trim() override {
    return guarded("trim", [&] {
      keep(flights_.drain());
      group_.ranges->let_go();
      std::size_t num_bytes = group_.arena->trim();
      if (group_.local != group_.arena) num_bytes += group_.local->trim();
      return static_cast<std::int64_t>(num_bytes);
    });
  }

 private:
  void keep(std::exception_ptr error) const {
    if (error && !unheard_) unheard_ = std::move(error);
  }
  void collect() const { keep(flights_.collect()); }
  std::exception_ptr take_unheard() { return std::exchange(unheard_, nullptr); }
  std::exception_ptr drain() {
    keep(flights_.drain());
    return take_unheard();
  }

  // After a failure of the group a rank that is thought gone may wake up and store into memory that was
  // announced to it.
  template <typename Work>
  std::invoke_result_t<Work> guarded(const char* name, Work work) {
    const cuda::NvtxRange range(name);
    const cuda::DeviceGuard guard(group_.device());
    const cuda::RelaxedCapture relaxed;
    const std::lock_guard lock(mutex_);
    cuda::release_from_gone_graphs();
    try {
      return work();
    } catch (const TimeoutError&) {
      group_.arena->abandon();
      throw;
    } catch (const TransportError&) {
      group_.arena->abandon();
      throw;
    }
  }

  cuda::DeviceGroup group_;
  mutable std::mutex mutex_;  ///< of what follows: counters() may be called beside an operation
  mutable cuda::Flights flights_;
  mutable std::exception_ptr unheard_;  ///< the first error of an operation that nobody has heard of
  std::uint64_t sequence_number_ = 0;
};

}  // namespace

std::unique_ptr<BufferEngine> make_device_planned_engine(const Communicator& comm,
                                                         const ElasticBufferConfig& config) {
  return std::make_unique<DevicePlannedEngine>(comm, config);
}

}  // namespace flexep
