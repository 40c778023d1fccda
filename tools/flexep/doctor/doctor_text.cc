// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "doctor/diagnosis.h"
#include "doctor/doctor_report.h"

namespace flexep::tool {
namespace {

constexpr const char* kUnknown = "unknown";

std::string line(std::string_view name, const std::string& value) {
  return fmt::format("{:<18}{}\n", name, value.empty() ? kUnknown : value);
}

template <typename T>
std::string or_unknown(const std::optional<T>& value) {
  return value ? fmt::format("{}", *value) : kUnknown;
}

std::string mebibytes(const std::optional<std::int64_t>& kib) {
  return kib ? fmt::format("{} MiB", *kib / 1024) : kUnknown;
}

std::string limit_text(const std::optional<Limit>& limit) {
  const auto bound = [](const std::optional<std::int64_t>& value) {
    return value ? fmt::format("{}", *value) : "unlimited";
  };
  return limit ? fmt::format("{} (at most {})", bound(limit->soft), bound(limit->hard)) : kUnknown;
}

std::string cpu_text(const CpuFacts& cpu) {
  std::string caches;
  for (const Cache& cache : cpu.caches) {
    caches += fmt::format("{}L{} {} {}", caches.empty() ? "" : ", ", cache.level, cache.type, cache.size);
    if (cache.num_sharing) caches += fmt::format(" for {}", *cache.num_sharing);
  }
  std::string cores =
      fmt::format("{} online, {} for this process", or_unknown(cpu.num_cores), or_unknown(cpu.num_usable));
  if (cpu.quota_cores) cores += fmt::format(", {:.3g} by the control group", *cpu.quota_cores);
  return line("processor", cpu.model) + line("cores", cores) + line("caches", caches) +
         line("NUMA nodes", cpu.numa_cores.empty() ? ""
                                                   : fmt::format("{} (cores: {})", cpu.numa_cores.size(),
                                                                 fmt::join(cpu.numa_cores, ", ")));
}

std::string memory_text(const MemoryFacts& memory) {
  std::string size =
      fmt::format("{}, {} available", mebibytes(memory.total_kib), mebibytes(memory.available_kib));
  if (memory.limit_bytes) size += fmt::format(", {} MiB by the control group", *memory.limit_bytes >> 20);
  return line("memory", size) +
         line("huge pages",
              fmt::format("transparent {}, for shared memory {}, reserved {}", or_unknown(memory.thp),
                          or_unknown(memory.thp_shmem), or_unknown(memory.huge_pages)));
}

std::string limits_text(const LimitFacts& limits) {
  return line("locked memory", limit_text(limits.locked_memory)) +
         line("open files", limit_text(limits.open_files)) + line("processes", limit_text(limits.processes)) +
         line("mappings", or_unknown(limits.max_map_count));
}

std::string network_text(const NetworkFacts& network) {
  std::string text;
  for (const NetworkDevice& device : network.devices) {
    if (device.is_loopback) continue;
    const std::string speed = device.megabits ? fmt::format("{} Mbit/s", *device.megabits) : "speed unknown";
    text += line(text.empty() ? "network" : "",
                 fmt::format("{}: {}, {}, mtu {}", device.name, device.state, speed, or_unknown(device.mtu)));
  }
  if (text.empty()) text = line("network", "none but loopback");
  if (network.infiniband.empty()) return text + line("InfiniBand", "none");
  for (const InfinibandPort& port : network.infiniband) {
    text +=
        line("InfiniBand", fmt::format("{} port {}: {}, {}", port.device, port.port, port.state, port.rate));
  }
  return text;
}

std::string mpi_text(const MpiFacts& mpi) {
  if (mpi.libraries.empty()) return line("MPI", "no library found");
  return line("MPI", fmt::format("{}; started by {}", fmt::join(mpi.libraries, ", "),
                                 mpi.launchers.empty() ? "nothing in PATH"
                                                       : fmt::format("{}", fmt::join(mpi.launchers, ", "))));
}

std::string gpu_text(const GpuFacts& gpu) {
  if (!gpu.why_none.empty()) return line("GPUs", fmt::format("none: {}", gpu.why_none));
  std::string text;
  for (std::size_t from = 0; from < gpu.names.size(); ++from) {
    std::vector<std::size_t> reached;
    for (std::size_t to = 0; to < gpu.names.size(); ++to)
      if (to != from && gpu.can_access[from][to]) reached.push_back(to);
    text += line(from == 0 ? "GPUs" : "",
                 fmt::format("{}: {}{}", from, gpu.names[from],
                             reached.empty() ? "" : fmt::format(", reaches {}", fmt::join(reached, ", "))));
  }
  return text;
}

}  // namespace

std::string text_of(const MachineFacts& facts) {
  std::string text = line("flexep", facts.library.version) + line("kernel", facts.kernel) +
                     cpu_text(facts.cpu) + memory_text(facts.memory) + limits_text(facts.limits) +
                     network_text(facts.network) + mpi_text(facts.mpi) + gpu_text(facts.gpu);
  text += "\nWhat flexep chooses here\n";
  for (const auto& [what, chosen, why] : choices_of(facts))
    text += fmt::format("  {}: {}\n      {}\n", what, chosen, why);
  const auto findings = findings_of(facts);
  text +=
      findings.empty() ? "\nNothing found that will hurt\n" : "\nWhat will hurt, and what to do about it\n";
  for (const auto& [what, remedy] : findings) text += fmt::format("  - {}\n      {}\n", what, remedy);
  return text;
}

}  // namespace flexep::tool
