// SPDX-License-Identifier: Apache-2.0
#include "core/engine.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "common/check.h"
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

// Handles of different buffers must differ even when they are used with one buffer: rank 0 draws a number for
// all.
std::int64_t agree_on_id(Transport& transport) {
  std::random_device entropy;
  std::int64_t id = static_cast<std::int64_t>(entropy()) << 31;
  const auto all = transport.all_gather(bytes_of(id), {.name = "construct"});
  std::memcpy(&id, all[0].data(), sizeof(id));
  return id;
}

}  // namespace

Engine::Engine(const Communicator& comm, const ElasticBufferConfig& buffer_config)
    : config(buffer_config),
      transport(comm.transport().split(0, comm.rank())),
      backend(make_cpu_backend()),
      context{.rank = transport->rank(),
              .num_ranks = transport->num_ranks(),
              .default_num_max_tokens_per_rank = config.num_max_tokens_per_rank,
              .default_num_sms = 1,
              .device = config.device},
      id(agree_on_id(*transport)),
      agreement(*transport),
      arena(std::make_shared<Arena>(
          transport, static_cast<std::size_t>(std::max<std::int64_t>(config.max_arena_bytes, 0)))),
      peers(*transport) {
  agreement.exchange({.name = "construct"}, [&] {
    require_argument(config.num_max_tokens_per_rank >= 0, "num_max_tokens_per_rank",
                     "num_max_tokens_per_rank on rank {} is {}, but must not be negative", rank(),
                     config.num_max_tokens_per_rank);
    require_argument(config.max_arena_bytes >= 0, "max_arena_bytes",
                     "max_arena_bytes on rank {} is {}, but must not be negative", rank(),
                     config.max_arena_bytes);
    context.default_num_sms = resolve_default_num_sms(config, *backend, *transport);
    ExchangeMessage message;
    message.header[Field::kAllowMultipleReduction] = config.allow_multiple_reduction;
    return message;
  });
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
