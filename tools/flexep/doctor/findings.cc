// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "doctor/diagnosis.h"

namespace flexep::tool {
namespace {

using Findings = std::vector<Finding>;

constexpr std::int64_t kKiB = 1024;
constexpr std::int64_t kGiB = 1024 * kKiB * kKiB;
constexpr std::int64_t kFewAvailable = 2 * kGiB;
constexpr std::int64_t kFewFiles = 4096;      // a connection to each rank of the machine, and memory segments
constexpr std::int64_t kFewMappings = 65530;  // what Linux has by default
constexpr std::int64_t kSlowMegabits = 10000;
constexpr std::int64_t kPlainMtu = 1500;

void look_at_cpu(const MachineFacts& facts, Findings& findings) {
  const CpuFacts& cpu = facts.cpu;
  if (cpu.quota_cores && cpu.num_usable && *cpu.quota_cores < *cpu.num_usable) {
    findings.push_back(
        {fmt::format("the control group allows {:.3g} of the {} cores that processes see: threads of a rank "
                     "would be stopped while others wait for it",
                     *cpu.quota_cores, *cpu.num_usable),
         fmt::format("export FLEXEP_NUM_THREADS=1, with at most {:.0f} ranks; or ask for a larger share",
                     std::max(1.0, std::floor(*cpu.quota_cores)))});
  }
  const auto num_nodes = std::ranges::count_if(cpu.numa_cores, [](int cores) { return cores > 0; });
  if (num_nodes > 1) {
    findings.push_back(
        {fmt::format("{} NUMA nodes: a rank whose threads or memory wander between them moves "
                     "rows at the rate of the link between the nodes",
                     num_nodes),
         "mpirun --map-by numa --bind-to numa, or numactl --cpunodebind=N --membind=N for rank N"});
  }
  if (facts.library.cpu_target == "scalar") {
    findings.push_back(
        {"the kernels run without vectors: about a tenth of the rate",
         "unset FLEXEP_CPU_TARGET; if it is not set, this processor has none that flexep knows"});
  }
}

void look_at_memory(const MachineFacts& facts, Findings& findings) {
  const MemoryFacts& memory = facts.memory;
  if (memory.thp_shmem == "never" || memory.thp_shmem == "deny") {
    findings.push_back(
        {fmt::format("shared memory has no huge pages (shmem_enabled is {}): arenas are made of 4 "
                     "KiB pages, which cost faults and misses of the TLB",
                     *memory.thp_shmem),
         "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled"});
  }
  if (memory.available_kib && *memory.available_kib * kKiB < kFewAvailable) {
    findings.push_back(
        {fmt::format("{} MiB of memory are available: an operation throws OutOfMemory when its "
                     "outputs do not fit",
                     *memory.available_kib / kKiB),
         "flexep plan says what a rank needs; send fewer tokens at a time, or end other programs"});
  }
  if (memory.limit_bytes && memory.total_kib && *memory.limit_bytes < *memory.total_kib * kKiB) {
    findings.push_back(
        {fmt::format("the control group allows {} MiB of {} MiB of memory, and kills who exceeds it",
                     *memory.limit_bytes / kKiB / kKiB, *memory.total_kib / kKiB),
         "set max_arena_bytes to that over the ranks, or ask for a larger limit"});
  }
}

void look_at_limits(const MachineFacts& facts, Findings& findings) {
  const LimitFacts& limits = facts.limits;
  if (limits.open_files && limits.open_files->soft.value_or(kFewFiles) < kFewFiles) {
    findings.push_back(
        {fmt::format("a process may open {} files: with many ranks on this machine, each with a "
                     "connection to each other, they run out",
                     *limits.open_files->soft),
         fmt::format("ulimit -n {}", limits.open_files->hard.value_or(65536))});
  }
  if (limits.max_map_count && *limits.max_map_count < kFewMappings) {
    findings.push_back(
        {fmt::format("a process may have {} mappings: every chunk of every rank's arena is one",
                     *limits.max_map_count),
         "sysctl -w vm.max_map_count=262144"});
  }
  if (!facts.network.infiniband.empty() && limits.locked_memory && limits.locked_memory->soft) {
    findings.push_back({fmt::format("a process may lock {} KiB of memory: InfiniBand registers what it sends",
                                    *limits.locked_memory->soft / kKiB),
                        "ulimit -l unlimited, or memlock in /etc/security/limits.conf"});
  }
}

bool is_up(const NetworkDevice& device) {
  return !device.is_loopback && device.state != "down";
}

void look_at_network(const MachineFacts& facts, Findings& findings) {
  const NetworkFacts& network = facts.network;
  for (const InfinibandPort& port : network.infiniband) {
    if (port.state.find("ACTIVE") != std::string::npos) continue;
    findings.push_back(
        {fmt::format("InfiniBand device {} port {} is not active ({}): MPI takes a slower network",
                     port.device, port.port, port.state),
         fmt::format("ibstat {}; look at the cable and the subnet manager", port.device)});
  }
  if (std::ranges::any_of(network.infiniband, [](const InfinibandPort& port) {
        return port.state.find("ACTIVE") != std::string::npos;
      })) {
    return;
  }
  for (const NetworkDevice& device : network.devices) {
    if (!is_up(device) || !device.megabits) continue;
    if (*device.megabits < kSlowMegabits) {
      findings.push_back(
          {fmt::format("{} has {} Mbit/s: a row of 14 KiB takes {:.0f} us between machines", device.name,
                       *device.megabits, 14336.0 * 8 / static_cast<double>(*device.megabits)),
           "keep hybrid mode on, which sends a token once to each machine; flexep plan --net-gbs "
           "says what is to be expected"});
    } else if (device.mtu && *device.mtu <= kPlainMtu) {
      findings.push_back(
          {fmt::format("{} has {} Mbit/s and packets of {} bytes: the processor becomes the limit",
                       device.name, *device.megabits, *device.mtu),
           fmt::format("ip link set dev {} mtu 9000, if the switches take them", device.name)});
    }
  }
}

void look_at_mpi(const MachineFacts& facts, Findings& findings) {
  const MpiFacts& mpi = facts.mpi;
  if (mpi.libraries.empty()) {
    findings.push_back({"there is no MPI library where the loader looks: ranks stay on one machine",
                        "apt-get install libopenmpi-dev openmpi-bin"});
  } else if (mpi.launchers.empty()) {
    findings.push_back({"there is an MPI library, and no mpirun, mpiexec or srun in PATH to start ranks with",
                        "apt-get install openmpi-bin"});
  } else if (mpi.libraries.size() > 1) {
    findings.push_back(
        {fmt::format("there are {} MPI libraries: a launcher that belongs to another one than flexep "
                     "was built with is refused",
                     mpi.libraries.size()),
         "use the launcher of that library, as mpirun.openmpi; FLEXEP_MPI_LIBRARY names another build"});
  }
}

void look_at_gpus(const MachineFacts& facts, Findings& findings) {
  const auto num_gpus = static_cast<int>(facts.gpu.can_access.size());
  for (int from = 0; from < num_gpus; ++from) {
    for (int to = from + 1; to < num_gpus; ++to) {
      const auto f = static_cast<std::size_t>(from), t = static_cast<std::size_t>(to);
      if (facts.gpu.can_access[f][t] && facts.gpu.can_access[t][f]) continue;
      findings.push_back(
          {fmt::format("GPU {} and GPU {} do not reach each other's memory: they cannot be ranks of "
                       "one domain",
                       from, to),
           "nvidia-smi topo -p2p rw; take GPUs that do with CUDA_VISIBLE_DEVICES"});
    }
  }
}

}  // namespace

std::vector<Finding> findings_of(const MachineFacts& facts) {
  Findings findings;
  look_at_cpu(facts, findings);
  look_at_memory(facts, findings);
  look_at_limits(facts, findings);
  look_at_network(facts, findings);
  look_at_mpi(facts, findings);
  look_at_gpus(facts, findings);
  return findings;
}

}  // namespace flexep::tool
