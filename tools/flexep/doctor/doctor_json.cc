// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "doctor/diagnosis.h"
#include "doctor/doctor_report.h"

namespace flexep::tool {
namespace {

using Json = nlohmann::ordered_json;

template <typename T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json();
}

Json json_of_cpu(const CpuFacts& cpu) {
  Json caches = Json::array();
  for (const Cache& cache : cpu.caches) {
    caches.push_back({{"level", cache.level},
                      {"type", cache.type},
                      {"size", cache.size},
                      {"num_sharing", or_null(cache.num_sharing)}});
  }
  return {{"model", cpu.model},
          {"num_cores", or_null(cpu.num_cores)},
          {"num_usable_cores", or_null(cpu.num_usable)},
          {"quota_cores", or_null(cpu.quota_cores)},
          {"caches", std::move(caches)},
          {"numa_node_cores", cpu.numa_cores}};
}

Json json_of_memory(const MemoryFacts& memory) {
  return {{"total_kib", or_null(memory.total_kib)},
          {"available_kib", or_null(memory.available_kib)},
          {"limit_bytes", or_null(memory.limit_bytes)},
          {"transparent_huge_pages", or_null(memory.thp)},
          {"transparent_huge_pages_of_shared_memory", or_null(memory.thp_shmem)},
          {"num_huge_pages", or_null(memory.huge_pages)},
          {"huge_page_kib", or_null(memory.huge_page_kib)}};
}

/// Soft and hard; null is "unlimited" in a limit, and "unknown" in place of one.
Json json_of_limit(const std::optional<Limit>& limit) {
  return limit ? Json{{"soft", or_null(limit->soft)}, {"hard", or_null(limit->hard)}} : Json();
}

Json json_of_limits(const LimitFacts& limits) {
  return {{"locked_memory_bytes", json_of_limit(limits.locked_memory)},
          {"open_files", json_of_limit(limits.open_files)},
          {"processes", json_of_limit(limits.processes)},
          {"max_map_count", or_null(limits.max_map_count)}};
}

Json json_of_network(const NetworkFacts& network) {
  Json devices = Json::array(), ports = Json::array();
  for (const NetworkDevice& device : network.devices) {
    devices.push_back({{"name", device.name},
                       {"state", device.state},
                       {"megabits_per_second", or_null(device.megabits)},
                       {"mtu", or_null(device.mtu)},
                       {"is_loopback", device.is_loopback}});
  }
  for (const InfinibandPort& port : network.infiniband) {
    ports.push_back(
        {{"device", port.device}, {"port", port.port}, {"state", port.state}, {"rate", port.rate}});
  }
  return {{"devices", std::move(devices)}, {"infiniband", std::move(ports)}};
}

}  // namespace

nlohmann::ordered_json json_of(const MachineFacts& facts) {
  Json choices = Json::array(), findings = Json::array();
  for (const auto& [what, chosen, why] : choices_of(facts))
    choices.push_back({{"what", what}, {"chosen", chosen}, {"why", why}});
  for (const auto& [what, remedy] : findings_of(facts))
    findings.push_back({{"what", what}, {"remedy", remedy}});
  return {
      {"schema_version", 1},
      {"flexep", facts.library.version},
      {"kernel", facts.kernel},
      {"cpu", json_of_cpu(facts.cpu)},
      {"memory", json_of_memory(facts.memory)},
      {"limits", json_of_limits(facts.limits)},
      {"network", json_of_network(facts.network)},
      {"mpi", {{"libraries", facts.mpi.libraries}, {"launchers", facts.mpi.launchers}}},
      {"gpus",
       {{"why_none", facts.gpu.why_none}, {"names", facts.gpu.names}, {"can_access", facts.gpu.can_access}}},
      {"choices", std::move(choices)},
      {"findings", std::move(findings)}};
}

}  // namespace flexep::tool
