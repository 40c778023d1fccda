// SPDX-License-Identifier: Apache-2.0
#include "core/construction.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "common/check.h"

namespace flexep {
namespace {

void check_config(const ElasticBufferConfig& config, int rank) {
  const auto check = [&](const char* name, std::int64_t value) {
    require_argument(value >= 0, name, "{} on rank {} is {}, but must not be negative", name, rank, value);
  };
  check("num_max_tokens_per_rank", config.num_max_tokens_per_rank);
  check("max_arena_bytes", config.max_arena_bytes);
  check("num_allocated_qps", config.network.num_allocated_qps);
  check("num_sms", config.num_sms);
  check("max_staging_bytes", config.max_staging_bytes);
  require_argument(config.arena_memory == ArenaMemory::kDevice || !config.device.is_host(), "arena_memory",
                   "arena_memory on rank {} is kPinnedHost, but its device is the CPU", rank);
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

Construction agree_on_construction(Transport& transport, Agreement& agreement,
                                   const ElasticBufferConfig& config,
                                   const std::function<int()>& default_num_sms) {
  const int rank = transport.rank();
  Construction agreed{.context = {.rank = rank,
                                  .num_ranks = transport.num_ranks(),
                                  .default_num_max_tokens_per_rank = config.num_max_tokens_per_rank,
                                  .default_num_sms = 1,
                                  .num_allocated_qps = resolve_num_allocated_qps(config.network),
                                  .device = config.device},
                      .id = agree_on_id(transport)};
  const ExchangeResult all = agreement.exchange({.name = "construct"}, [&] {
    check_config(config, rank);
    agreed.context.default_num_sms = default_num_sms();
    ExchangeMessage message;
    message.header[Field::kAllowMultipleReduction] = config.allow_multiple_reduction;
    message.header[Field::kAllowHybridMode] = config.network.allow_hybrid_mode;
    message.header.max_staging_bytes = config.max_staging_bytes;
    message.header.num_max_tokens_per_rank = config.num_max_tokens_per_rank;
    return message;
  });
  int& num_max_tokens = agreed.context.default_num_max_tokens_per_rank;
  agreed.max_staging_bytes = config.max_staging_bytes;
  for (const ExchangeHeader& header : all.headers) {
    num_max_tokens = std::max(num_max_tokens, header.num_max_tokens_per_rank);
    agreed.max_staging_bytes = std::min(agreed.max_staging_bytes, header.max_staging_bytes);
  }
  return agreed;
}

}  // namespace flexep
