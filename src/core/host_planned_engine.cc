// SPDX-License-Identifier: Apache-2.0
#include "core/host_planned_engine.h"

#include <future>
#include <utility>

#include "common/deadline.h"
#include "common/interruption.h"
#include "core/combine_operation.h"
#include "core/dispatch_operation.h"
#include "flexep/error.h"

namespace flexep {

HostPlannedEngine::HostPlannedEngine(const Communicator& comm, const ElasticBufferConfig& config,
                                     const std::shared_ptr<StagedDevice>& device)
    : engine_(comm, config, device), communication_(!engine_.transport->can_work_in_background()) {}

HostPlannedEngine::~HostPlannedEngine() {
  drain();
  // Tensors may keep the arena, and with it the group, for long: nobody shall wait for this rank meanwhile.
  engine_.transport->leave();
}

DomainSize HostPlannedEngine::physical_domain_size() const {
  const Topology& topology = engine_.routes().topology;
  return {.num_scaleout_ranks = topology.num_scaleout_ranks, .num_scaleup_ranks = topology.num_scaleup_ranks};
}

// What the communication thread waits for ends with the group. Nobody interrupts that thread itself: it is
// none of the program's.
template <typename WaitFor>
void HostPlannedEngine::wait_in_slices(WaitFor wait_for) {
  while (!wait_for(kWaitSlice)) {
    if (is_interrupted()) engine_.transport->abort("it was interrupted");
  }
}

// After a failure of the group a rank that is thought gone may wake up and store into memory that was
// announced to it.
template <typename Work>
void HostPlannedEngine::guarded(Work work) {
  try {
    work();
  } catch (const TimeoutError&) {
    engine_.arena->abandon();
    throw;
  } catch (const TransportError&) {
    engine_.arena->abandon();
    throw;
  }
}

void HostPlannedEngine::drain() {
  wait_in_slices([&](std::chrono::nanoseconds slice) { return communication_.drain_for(slice); });
}

void HostPlannedEngine::await(const Event& event) {
  wait_in_slices([&](std::chrono::nanoseconds slice) { return event.wait_for(slice); });
}

DispatchResult HostPlannedEngine::dispatch(const DispatchArgs& args, const std::exception_ptr& refusal) {
  const auto operation = std::make_shared<DispatchOperation>(engine_, args, ++sequence_number_, refusal);
  if (!args.async_with_compute_stream) {
    drain();
    guarded([&] { operation->run(); });
    return std::move(*operation).result();
  }
  const Event end = operation->needs_counts()
                        ? submit_and_await_counts(operation)
                        : communication_.submit([this, operation] { guarded([&] { operation->run(); }); });
  // A mistake of the caller's own is thrown here, once the other ranks have been told.
  if (operation->is_refused()) await(end);
  DispatchResult result = operation->result();
  result.event = end;
  return result;
}

// The caller waits for the counts, which give the outputs their sizes, but not for the rows.
Event HostPlannedEngine::submit_and_await_counts(const std::shared_ptr<DispatchOperation>& operation) {
  const auto placed = std::make_shared<std::promise<void>>();
  Event end = communication_.submit([this, operation, placed] {
    try {
      guarded([&] { operation->agree_and_place(); });
    } catch (...) {
      placed->set_exception(std::current_exception());
      throw;
    }
    placed->set_value();
    guarded([&] { operation->move(); });
  });
  await(Event(placed->get_future().share()));
  return end;
}

CombineResult HostPlannedEngine::combine(const CombineArgs& args, const std::exception_ptr& refusal) {
  const auto operation = std::make_shared<CombineOperation>(engine_, args, ++sequence_number_, refusal);
  if (!args.async_with_compute_stream) {
    drain();
    guarded([&] { operation->run(); });
    return std::move(*operation).result();
  }
  const Event end = communication_.submit([this, operation] { guarded([&] { operation->run(); }); });
  // A mistake of the caller's own is thrown here, once the other ranks have been told.
  if (operation->is_refused()) await(end);
  CombineResult result = operation->result();
  result.event = end;
  return result;
}

void HostPlannedEngine::barrier() {
  ++sequence_number_;
  drain();
  guarded([&] {
    engine_.agreement.conclude({"barrier", sequence_number_}, [&] { engine_.deferred_error.report(); });
  });
}

void HostPlannedEngine::check() {
  drain();
  engine_.deferred_error.report();
}

std::shared_ptr<void> HostPlannedEngine::register_memory(void* memory, std::size_t num_bytes) {
  return engine_.registrations->add(memory, num_bytes);
}

Tensor HostPlannedEngine::empty(const Shape& shape, DType dtype) {
  const auto num_bytes = static_cast<std::size_t>(shape.num_elements()) * size_of(dtype);
  return make_tensor(engine_.arena->reserve(num_bytes), shape, dtype);
}

std::unique_ptr<BufferEngine> make_host_planned_engine(const Communicator& comm,
                                                       const ElasticBufferConfig& config) {
  return std::make_unique<HostPlannedEngine>(comm, config);
}

}  // namespace flexep
