// SPDX-License-Identifier: Apache-2.0
#include "core/engine.h"

#include <algorithm>

#include "common/check.h"
#include "core/construction.h"
#include "flexep/env.h"

namespace flexep {
namespace {

int resolve_default_num_sms(const ElasticBufferConfig& config, const Backend& backend,
                            const Transport& transport) {
  require_argument(config.num_sms >= 0, "num_sms", "num_sms is {}, but must not be negative", config.num_sms);
  if (config.num_sms > 0) return config.num_sms;
  const auto num_threads = Environment::read().num_threads;
  require_argument(num_threads.value_or(1) > 0, "FLEXEP_NUM_THREADS",
                   "FLEXEP_NUM_THREADS is {}, but must be positive", num_threads.value_or(1));
  return num_threads.value_or(backend.default_width(transport.num_local_ranks()));
}

Arena::Pin pin_for(const std::shared_ptr<StagedDevice>& device) {
  if (!device) return {};
  return [device](std::byte* memory, std::size_t num_bytes) { return device->pin(memory, num_bytes); };
}

}  // namespace

Engine::Engine(const Communicator& comm, const ElasticBufferConfig& buffer_config,
               const std::shared_ptr<StagedDevice>& device)
    : config(buffer_config),
      transport(comm.transport().split(0, comm.rank())),
      backend(make_cpu_backend()),
      agreement(*transport),
      arena(std::make_shared<Arena>(
          transport, static_cast<std::size_t>(std::max<std::int64_t>(config.max_arena_bytes, 0)),
          pin_for(device))),
      registrations(std::make_shared<Registrations>(transport)),
      peers(*transport),
      meter(*transport) {
  const Construction agreed = agree_on_construction(*transport, agreement, config, [&] {
    if (device) device->prepare();
    return resolve_default_num_sms(config, *backend, *transport);
  });
  context = agreed.context;
  config.max_staging_bytes = agreed.max_staging_bytes;
  context.routes = {
      .topology = transport->topology(), .rank = context.rank, .is_hybrid = config.network.allow_hybrid_mode};
  id = agreed.id;
}

}  // namespace flexep
