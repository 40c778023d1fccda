// SPDX-License-Identifier: Apache-2.0
#include "cuda_devices.h"
#include "doctor/probes.h"
#include "flexep/flexep.h"
#include "kernels/cpu/cpu_target.h"

namespace flexep::tool {

GpuFacts probe_gpus() {
  GpuFacts facts{.why_none = why_no_cuda_device(), .names = {}, .can_access = {}};
  if (!facts.why_none.empty()) return facts;
  facts.names = cuda_device_names();
  const auto num_gpus = static_cast<int>(facts.names.size());
  for (int from = 0; from < num_gpus; ++from) {
    auto& row = facts.can_access.emplace_back();
    for (int to = 0; to < num_gpus; ++to) row.push_back(from == to || cuda_can_access(from, to));
  }
  return facts;
}

MachineFacts probe_machine(const MachineRoot& root, const std::string& search_path) {
  return {.kernel = root.text("proc/sys/kernel/osrelease").value_or(""),
          .cpu = probe_cpu(root),
          .memory = probe_memory(root),
          .limits = probe_limits(root),
          .network = probe_network(root),
          .gpu = probe_gpus(),
          .mpi = probe_mpi(root, search_path),
          .library = {.version = version(), .cpu_target = cpu::cpu_target()}};
}

}  // namespace flexep::tool
