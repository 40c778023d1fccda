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

void check_config(const ElasticBufferConfig& config, int rank) {
  const auto check = [&](const char* name, std::int64_t value) {
    require_argument(value >= 0, name, "{} on rank {} is {}, but must not be negative", name, rank, value);
  };
  check("num_max_tokens_per_rank", config.num_max_tokens_per_rank);
  check("max_arena_bytes", config.max_arena_bytes);
  check("num_allocated_qps", config.network.num_allocated_qps);
  constexpr std::int64_t kGranularity = 2 << 20;
  const std::int64_t num_bytes = config.num_bytes.value_or(kGranularity);
  require_argument(num_bytes > 0 && num_bytes % kGranularity == 0, "num_bytes",
                   "num_bytes on rank {} is {}, but must be a positive multiple of 2 MiB", rank, num_bytes);
  const std::int64_t num_cpu_bytes = config.num_cpu_bytes;
  const std::int64_t most = config.num_bytes.value_or(0);
  require_argument(num_cpu_bytes >= 0 && num_cpu_bytes <= most && num_cpu_bytes % kGranularity == 0,
                   "num_cpu_bytes",
                   "num_cpu_bytes on rank {} is {}, but must be a multiple of 2 MiB in [0, num_bytes = {}]",
                   rank, num_cpu_bytes, most);
}

int resolve_num_allocated_qps(const NetworkOptions& network) {
  if (network.num_allocated_qps > 0) return network.num_allocated_qps;
  return network.allow_hybrid_mode ? 129 : 17;
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
              .num_allocated_qps = resolve_num_allocated_qps(config.network),
              .device = config.device},
      id(agree_on_id(*transport)),
      agreement(*transport),
      arena(std::make_shared<Arena>(
          transport, static_cast<std::size_t>(std::max<std::int64_t>(config.max_arena_bytes, 0)))),
      registrations(std::make_shared<Registrations>(transport)),
      peers(*transport) {
  const ExchangeResult agreed = agreement.exchange({.name = "construct"}, [&] {
    check_config(config, rank());
    context.default_num_sms = resolve_default_num_sms(config, *backend, *transport);
    ExchangeMessage message;
    message.header[Field::kAllowMultipleReduction] = config.allow_multiple_reduction;
    message.header.num_max_tokens_per_rank = config.num_max_tokens_per_rank;
    return message;
  });
  for (const ExchangeHeader& header : agreed.headers) {
    context.default_num_max_tokens_per_rank =
        std::max(context.default_num_max_tokens_per_rank, header.num_max_tokens_per_rank);
  }
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
