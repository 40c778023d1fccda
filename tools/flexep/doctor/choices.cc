// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "doctor/diagnosis.h"

namespace flexep::tool {
namespace {

Choice transport_choice(const MachineFacts& facts) {
  const bool has_mpi = !facts.mpi.libraries.empty() && !facts.mpi.launchers.empty();
  return {"transport", "shm for processes, in_process for threads",
          has_mpi ? "ranks of one machine share memory; mpirun and srun join machines by mpi, which is here"
                  : "ranks of one machine share memory; mpi, which would join machines, is not here"};
}

Choice device_choice(const MachineFacts& facts) {
  if (!facts.gpu.why_none.empty()) return {"device", "cpu", fmt::format("no GPU: {}", facts.gpu.why_none)};
  return {"device", "cpu; cuda where tensors are on a GPU",
          fmt::format("{} of them, ranks may share one", facts.gpu.names.size())};
}

Choice thread_choice(const MachineFacts& facts) {
  const int num_cores = num_effective_cores(facts.cpu);
  std::string chosen;
  for (int num_ranks = 1; num_ranks <= std::min(num_cores, 8); num_ranks *= 2)
    chosen += fmt::format("{}{} with {}", chosen.empty() ? "" : ", ", num_cores / num_ranks,
                          num_ranks == 1 ? "1 rank" : fmt::format("{} ranks", num_ranks));
  return {"threads of a rank (num_sms)", chosen,
          fmt::format("{} cores over the ranks of this machine, at least 1; FLEXEP_NUM_THREADS changes it",
                      num_cores)};
}

}  // namespace

int num_effective_cores(const CpuFacts& cpu) {
  double num_cores = cpu.num_usable.value_or(cpu.num_cores.value_or(1));
  if (cpu.quota_cores) num_cores = std::min(num_cores, std::floor(*cpu.quota_cores));
  return std::max(1, static_cast<int>(num_cores));
}

std::vector<Choice> choices_of(const MachineFacts& facts) {
  return {transport_choice(facts),
          device_choice(facts),
          {"instruction set", facts.library.cpu_target,
           "the best that this processor has, unless FLEXEP_CPU_TARGET forces another; results are the same "
           "bits"},
          thread_choice(facts)};
}

}  // namespace flexep::tool
