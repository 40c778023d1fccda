// SPDX-License-Identifier: Apache-2.0
#include "check/check_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "device.h"
#include "errors.h"
#include "mpi_launch.h"

namespace flexep::tool {
namespace {

constexpr int kMaxRanks = 256;
constexpr std::int64_t kMaxCases = 1'000'000'000'000;

void require_usable(const CheckOptions& options) {
  if (options.memory != "device" && options.device == "cpu")
    throw UsageError(fmt::format("--memory {}: the CPU has one kind", options.memory));
  if (options.num_cases < 1 || options.num_cases > kMaxCases)
    throw UsageError(fmt::format("--cases {}: not from 1 to {}", options.num_cases, kMaxCases));
  if (options.case_idx >= kMaxCases)
    throw UsageError(fmt::format("--case {}: not below {}", options.case_idx, kMaxCases));
  for (const int num_ranks : options.num_ranks) {
    if (num_ranks >= 1 && num_ranks <= kMaxRanks) continue;
    throw UsageError(fmt::format("--ranks {}: not a number from 1 to {}", num_ranks, kMaxRanks));
  }
  for (const int num_domains : options.num_domains) {
    if (num_domains < 1) throw UsageError(fmt::format("--domains {}: at least one", num_domains));
  }
}

std::vector<std::string> transports(const std::string& name) {
  if (name == "all") return {"in_process", "shm"};
  if (name == "mpi") require_mpi();
  if (name == "in_process" || name == "shm" || name == "mpi") return {name};
  throw UsageError(fmt::format("--transport {}: not one of in_process, shm, mpi, all", name));
}

// Processes that share memory are one domain; threads, and ranks of MPI, play as many as they are told.
std::vector<int> domains_of(const CheckOptions& options, const std::string& transport, int num_ranks) {
  if (transport == "shm") return {1};
  std::vector<int> fitting;
  std::ranges::copy_if(options.num_domains, std::back_inserter(fitting),
                       [&](int num_domains) { return num_ranks % num_domains == 0; });
  return fitting;
}

}  // namespace

GroupPlan plan_rank(const CheckOptions& options, const std::string& transport, int num_ranks) {
  require_usable(options);
  GroupPlan group{.config = {.device = device_of(options.device, options.num_gpus),
                             .arena_memory = arena_memory_of(options.memory)},
                  .num_gpus = options.num_gpus,
                  .transport = transport,
                  .num_ranks = num_ranks};
  group.cases = {.seed = options.seed,
                 .first = options.first_case,
                 .stride = options.case_stride,
                 .num_cases = options.num_cases};
  if (options.case_idx >= 0) {
    group.cases.first = options.case_idx;
    group.cases.num_cases = 1;
  }
  return group;
}

ElasticBufferConfig GroupPlan::config_of(int rank) const {
  ElasticBufferConfig of_rank = config;
  of_rank.device = device_of(std::string(name_of(config.device)), num_gpus, rank);
  return of_rank;
}

std::vector<GroupPlan> plan_groups(const CheckOptions& options) {
  require_usable(options);
  std::vector<GroupPlan> groups;
  for (const auto& transport : transports(options.transport)) {
    for (const int num_ranks : options.num_ranks) {
      for (const int num_domains : domains_of(options, transport, num_ranks)) {
        groups.push_back(plan_rank(options, transport, num_ranks));
        groups.back().num_domains = num_domains;
      }
    }
  }
  if (groups.empty()) throw UsageError("no number of --ranks is a multiple of one of --domains");
  if (options.case_idx >= 0) return groups;
  const auto num_groups = static_cast<std::int64_t>(groups.size());
  for (std::int64_t i = 0; i < num_groups; ++i) {
    auto& cases = groups[static_cast<std::size_t>(i)].cases;
    cases.first = i;
    cases.stride = num_groups;
    cases.num_cases = (options.num_cases - i + num_groups - 1) / num_groups;
  }
  return groups;
}

std::string reproduce_command(const GroupPlan& group, std::int64_t case_idx) {
  const std::string domains = group.transport == "shm" ? "" : fmt::format(" --domains {}", group.num_domains);
  const std::string memory = group.config.arena_memory == ArenaMemory::kDevice
                                 ? ""
                                 : fmt::format(" --memory {}", name_of(group.config.arena_memory));
  const std::string gpus = group.num_gpus == 0 ? "" : fmt::format(" --gpus {}", group.num_gpus);
  return fmt::format("flexep check --device {}{}{} --transport {} --ranks {}{} --seed {} --case {}",
                     name_of(group.config.device), gpus, memory, group.transport, group.num_ranks, domains,
                     group.cases.seed, case_idx);
}

std::vector<std::string> rank_arguments(const GroupPlan& group, const std::string& tally) {
  return {"check",
          fmt::format("--device={}", name_of(group.config.device)),
          fmt::format("--gpus={}", group.num_gpus),
          fmt::format("--memory={}", name_of(group.config.arena_memory)),
          fmt::format("--transport={}", group.transport),
          fmt::format("--cases={}", group.cases.num_cases),
          fmt::format("--seed={}", group.cases.seed),
          fmt::format("--first-case={}", group.cases.first),
          fmt::format("--case-stride={}", group.cases.stride),
          fmt::format("--tally={}", tally)};
}

}  // namespace flexep::tool
