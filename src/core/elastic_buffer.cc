// SPDX-License-Identifier: Apache-2.0
#include "flexep/elastic_buffer.h"

#include <future>

#include "core/combine_operation.h"
#include "core/communication_thread.h"
#include "core/dispatch_operation.h"
#include "core/engine.h"
#include "flexep/error.h"
#include "flexep/plan_model.h"

namespace flexep {

/// Numbers the operations and runs them in order, on the caller's thread or on the communication thread.
class ElasticBuffer::Impl {
 public:
  Impl(const Communicator& comm, const ElasticBufferConfig& config) : engine_(comm, config) {}
  ~Impl() {
    communication_.drain();
    // Tensors may keep the arena, and with it the group, for long: nobody shall wait for this rank meanwhile.
    engine_.transport->leave();
  }

  DispatchResult dispatch(const DispatchArgs& args) {
    const auto operation = std::make_shared<DispatchOperation>(engine_, args, ++sequence_number_);
    if (!args.async_with_compute_stream) {
      communication_.drain();
      guarded([&] {
        operation->agree_and_place();
        operation->move();
      });
      return operation->result();
    }
    // The caller waits for the counts, which give the outputs their sizes, but not for the rows.
    const auto placed = std::make_shared<std::promise<void>>();
    const Event end = communication_.submit([this, operation, placed] {
      try {
        guarded([&] { operation->agree_and_place(); });
      } catch (...) {
        placed->set_exception(std::current_exception());
        throw;
      }
      placed->set_value();
      guarded([&] { operation->move(); });
    });
    placed->get_future().get();
    DispatchResult result = operation->result();
    result.event = end;
    return result;
  }

  CombineResult combine(const CombineArgs& args) {
    const auto operation = std::make_shared<CombineOperation>(engine_, args, ++sequence_number_);
    if (!args.async_with_compute_stream) {
      communication_.drain();
      guarded([&] { operation->run(); });
      return operation->result();
    }
    const Event end = communication_.submit([this, operation] { guarded([&] { operation->run(); }); });
    // A mistake of the caller's own is thrown here, once the other ranks have been told.
    if (operation->is_refused()) end.wait();
    CombineResult result = operation->result();
    result.event = end;
    return result;
  }

  Engine& engine() { return engine_; }

 private:
  // After a failure of the group a rank that is thought gone may wake up and store into memory that was
  // announced to it.
  template <typename Work>
  void guarded(Work work) {
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
  Engine engine_;
  std::uint64_t sequence_number_ = 0;
  // Last: its destructor finishes what is in flight.
  CommunicationThread communication_;
};

ElasticBuffer::ElasticBuffer(const Communicator& comm, const ElasticBufferConfig& config)
    : impl_(std::make_unique<Impl>(comm, config)) {}
ElasticBuffer::~ElasticBuffer() = default;
ElasticBuffer::ElasticBuffer(ElasticBuffer&&) noexcept = default;
ElasticBuffer& ElasticBuffer::operator=(ElasticBuffer&&) noexcept = default;

int ElasticBuffer::rank() const {
  return impl_->engine().rank();
}
int ElasticBuffer::num_ranks() const {
  return impl_->engine().num_ranks();
}
DispatchResult ElasticBuffer::dispatch(const DispatchArgs& args) {
  return impl_->dispatch(args);
}
CombineResult ElasticBuffer::combine(const CombineArgs& args) {
  return impl_->combine(args);
}

Event ElasticBuffer::capture() {
  // Everything that the calling thread has done so far is done.
  std::promise<void> reached;
  reached.set_value();
  return Event(reached.get_future().share());
}

Tensor ElasticBuffer::empty(const Shape& shape, DType dtype) {
  const auto num_bytes = static_cast<std::size_t>(shape.num_elements()) * size_of(dtype);
  return make_tensor(impl_->engine().arena->reserve(num_bytes), shape, dtype);
}

std::int64_t ElasticBuffer::num_bytes() const {
  const ElasticBufferConfig& config = impl_->engine().config;
  if (config.num_max_tokens_per_rank == 0 || config.hidden == 0) return 0;
  return get_buffer_size_hint({.num_scaleup_ranks = num_ranks(),
                               .num_max_tokens_per_rank = config.num_max_tokens_per_rank,
                               .hidden = config.hidden,
                               .num_topk = config.num_topk,
                               .allow_multiple_reduction = config.allow_multiple_reduction});
}

BufferCounters ElasticBuffer::counters() const {
  Engine& engine = impl_->engine();
  const std::lock_guard lock(engine.counters_mutex);
  return engine.counters;
}

std::int64_t ElasticBuffer::trim() {
  return static_cast<std::int64_t>(impl_->engine().arena->trim());
}

std::int64_t ElasticBuffer::arena_bytes() const {
  return static_cast<std::int64_t>(impl_->engine().arena->num_bytes());
}

}  // namespace flexep
