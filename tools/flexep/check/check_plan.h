// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "conformance/run_cases.h"

namespace flexep::tool {

/// The options of `flexep check`.
struct CheckOptions {
  std::string device = "cpu";
  int num_gpus = 0;  ///< 0 = all
  std::string memory = "device";
  std::string transport = "all";
  std::vector<int> num_ranks = {1, 2, 3, 4, 7, 8};
  std::vector<int> num_domains = {
      1, 2, 4};  ///< that ranks of in_process and mpi play, where it divides their number
  std::int64_t num_cases = 300;
  std::uint64_t seed = 1;
  std::int64_t case_idx = -1;  ///< only this case, on each group

  // From a check to the ranks that it starts.
  std::int64_t first_case = 0;
  std::int64_t case_stride = 1;
  std::string tally;  ///< the file of the tally
};

/// A kind of group and the cases that it runs.
struct GroupPlan {
  ElasticBufferConfig config;  ///< of rank 0
  int num_gpus = 0;
  std::string transport;
  int num_ranks = 1;
  int num_domains = 1;
  conformance::CaseRange cases;

  int num_scaleup_ranks() const { return num_ranks / num_domains; }
  ElasticBufferConfig config_of(int rank) const;
};

/// Shares the cases out to every kind of group, by transport, number of ranks and of domains: case i goes to
/// group i modulo the number of groups.
/// @throws UsageError, NotAvailable.
std::vector<GroupPlan> plan_groups(const CheckOptions& options);

/// The cases of a rank of a job that is already running.
GroupPlan plan_rank(const CheckOptions& options, const std::string& transport, int num_ranks);

/// The command that runs one case of a group alone.
std::string reproduce_command(const GroupPlan& group, std::int64_t case_idx);

/// The arguments with which a rank of `group` is started.
std::vector<std::string> rank_arguments(const GroupPlan& group, const std::string& tally);

}  // namespace flexep::tool
