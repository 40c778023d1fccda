// SPDX-License-Identifier: Apache-2.0
#include "flexep/elastic_buffer.h"

#include <future>

#include "common/check.h"
#include "core/buffer_engine.h"
#include "flexep/plan_model.h"
#include "transport/transport.h"

namespace flexep {
namespace {

std::unique_ptr<BufferEngine> make_engine(const Communicator& comm, const ElasticBufferConfig& config) {
  switch (config.device.type) {
    case Device::Type::kHost:
      return make_host_planned_engine(comm, config);
    case Device::Type::kCuda:
      // A GPU reaches what its domain shares; between domains go messages, which are the host's.
      if (comm.transport().topology().num_scaleout_ranks == 1)
        return make_device_planned_engine(comm, config);
      return make_host_staged_engine(comm, config, make_staged_device(config));
  }
  return nullptr;
}

}  // namespace

ElasticBuffer::ElasticBuffer(const Communicator& comm, const ElasticBufferConfig& config)
    : engine_(make_engine(comm, config)) {}
ElasticBuffer::~ElasticBuffer() = default;
ElasticBuffer::ElasticBuffer(ElasticBuffer&&) noexcept = default;
ElasticBuffer& ElasticBuffer::operator=(ElasticBuffer&&) noexcept = default;

BufferEngine& ElasticBuffer::engine() const {
  require_argument(engine_ != nullptr, "buffer", "this buffer has been destroyed, or moved from");
  return *engine_;
}

int ElasticBuffer::rank() const {
  return engine().rank();
}
int ElasticBuffer::num_ranks() const {
  return engine().num_ranks();
}
int ElasticBuffer::num_max_tokens_per_rank() const {
  return engine().num_max_tokens_per_rank();
}
bool ElasticBuffer::supports_async() const {
  return engine().supports_async();
}
DomainSize ElasticBuffer::get_physical_domain_size() const {
  return engine().physical_domain_size();
}
DomainSize ElasticBuffer::get_logical_domain_size() const {
  if (!engine().config().network.allow_hybrid_mode) return {.num_scaleup_ranks = num_ranks()};
  return get_physical_domain_size();
}
DispatchResult ElasticBuffer::dispatch(const DispatchArgs& args) {
  return engine().dispatch(args);
}
CombineResult ElasticBuffer::combine(const CombineArgs& args) {
  return engine().combine(args);
}
void ElasticBuffer::barrier() {
  engine().barrier();
}
void ElasticBuffer::check() {
  engine().check();
}
void ElasticBuffer::destroy() {
  require_argument(engine().config().explicitly_destroy, "explicitly_destroy",
                   "the buffer of rank {} was made without explicitly_destroy: its destructor ends it",
                   rank());
  const std::unique_ptr<BufferEngine> ending = std::move(engine_);
  ending->barrier();
}

Event ElasticBuffer::capture() {
  // Everything that the calling thread has done so far is done.
  std::promise<void> reached;
  reached.set_value();
  return Event(reached.get_future().share());
}

RegisteredMemory ElasticBuffer::register_memory(void* memory, std::size_t num_bytes) {
  return RegisteredMemory(engine().register_memory(memory, num_bytes));
}

Tensor ElasticBuffer::empty(const Shape& shape, DType dtype) {
  return engine().empty(shape, dtype);
}

std::int64_t ElasticBuffer::num_bytes() const {
  const ElasticBufferConfig& config = engine().config();
  if (config.num_bytes) return *config.num_bytes;
  if (config.num_max_tokens_per_rank == 0 || config.hidden == 0) return 0;
  const DomainSize domains = get_logical_domain_size();
  return get_buffer_size_hint({.num_scaleout_ranks = domains.num_scaleout_ranks,
                               .num_scaleup_ranks = domains.num_scaleup_ranks,
                               .num_max_tokens_per_rank = config.num_max_tokens_per_rank,
                               .hidden = config.hidden,
                               .num_topk = config.num_topk,
                               .use_fp8_dispatch = config.use_fp8_dispatch,
                               .allow_multiple_reduction = config.allow_multiple_reduction});
}

BufferCounters ElasticBuffer::counters() const {
  return engine().counters();
}
std::int64_t ElasticBuffer::trim() {
  return engine().trim();
}
std::int64_t ElasticBuffer::arena_bytes() const {
  return engine().arena_bytes();
}

}  // namespace flexep
