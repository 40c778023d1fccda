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

}  // namespace

Engine::Engine(const Communicator& comm, const ElasticBufferConfig& buffer_config)
    : config(buffer_config),
      transport(comm.transport().split(0, comm.rank())),
      backend(make_cpu_backend()),
      agreement(*transport),
      arena(std::make_shared<Arena>(
          transport, static_cast<std::size_t>(std::max<std::int64_t>(config.max_arena_bytes, 0)))),
      registrations(std::make_shared<Registrations>(transport)),
      peers(*transport) {
  const Construction agreed = agree_on_construction(
      *transport, agreement, config, [&] { return resolve_default_num_sms(config, *backend, *transport); });
  context = agreed.context;
  id = agreed.id;
}

void Engine::count_rows(std::span<const std::int32_t> num_rows_per_rank, std::size_t row_bytes) {
  count([&](BufferCounters& totals) {
    for (std::size_t r = 0; r < num_rows_per_rank.size(); ++r) {
      const std::int64_t num_rows = num_rows_per_rank[r];
      const bool is_local = static_cast<int>(r) == rank();
      (is_local ? totals.num_rows_local : totals.num_rows_remote) += num_rows;
      if (!is_local) totals.link_bytes += num_rows * static_cast<std::int64_t>(row_bytes);
    }
  });
}

}  // namespace flexep
