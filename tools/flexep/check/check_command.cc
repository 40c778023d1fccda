// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "check/check_plan.h"
#include "check/tally.h"
#include "command.h"
#include "errors.h"
#include "flexep/communicator.h"
#include "flexep/elastic_buffer.h"
#include "flexep/env.h"
#include "flexep/error.h"
#include "launcher/launcher.h"
#include "mpi_launch.h"

namespace flexep::tool {
namespace {

/// A case moves kilobytes: who is not heard of for a minute hangs.
constexpr std::chrono::seconds kTimeout{60};

CommunicatorOptions communicator_options(int num_scaleup_ranks = 0) {
  CommunicatorOptions options{.num_scaleup_ranks = num_scaleup_ranks};
  if (!Environment::read().timeout_secs) options.timeout = kTimeout;
  return options;
}

/// Counts outcomes and says what failed.
class Reporter {
 public:
  Reporter(const GroupPlan& group, const Tally& tally) : group_(group), tally_(tally) {}

  void operator()(const conformance::CaseOutcome& outcome) {
    ++(outcome.passed ? tally_.counts().num_passed : tally_.counts().num_failed);
    if (!outcome.passed) {
      progress_.clear();
      fmt::print("FAILED case {} ({}, {} ranks in {} domains)\n{}  reproduce: {}\n", outcome.case_idx,
                 group_.transport, group_.num_ranks, group_.num_domains, outcome.failure,
                 reproduce_command(group_, outcome.case_idx));
      std::fflush(stdout);
    }
    progress_.show(tally_);
  }

 private:
  const GroupPlan& group_;
  const Tally& tally_;
  ProgressLine progress_;
};

/// Every rank learns every outcome; rank 0 reports them.
void run_rank(const Communicator& comm, const GroupPlan& group, const Tally& tally) {
  const ElasticBufferConfig config = group.config_of(comm.rank());
  if (comm.rank() == 0) {
    conformance::run_cases(comm, config, group.cases, Reporter(group, tally));
  } else {
    conformance::run_cases(comm, config, group.cases, [](const conformance::CaseOutcome&) {});
  }
}

int summarise(const Tally& tally) {
  const auto& counts = tally.counts();
  fmt::print("{} passed, {} failed\n", counts.num_passed.load(), counts.num_failed.load());
  return counts.num_passed == counts.num_cases ? kOk : kFailed;
}

/// This process is a rank of a job. When the check started it, the check counts and says how it went; else
/// rank 0 does.
int run_as_rank(const CheckOptions& options) {
  const Communicator comm = Communicator::from_environment(communicator_options());
  const std::string transport =
      options.transport == "all" ? std::string(comm.transport_name()) : options.transport;
  GroupPlan group = plan_rank(options, transport, comm.num_ranks());
  group.num_domains =
      ElasticBuffer(comm, group.config_of(comm.rank())).get_physical_domain_size().num_scaleout_ranks;
  const bool is_ours = !options.tally.empty();
  const Tally tally = is_ours ? Tally::open(options.tally) : Tally::create(group.cases.num_cases);
  run_rank(comm, group, tally);
  return is_ours || comm.rank() != 0 ? kOk : summarise(tally);
}

void run_threads(const GroupPlan& group, const Tally& tally) {
  in_process(
      group.num_ranks, [&](Communicator& comm) { run_rank(comm, group, tally); },
      communicator_options(group.num_scaleup_ranks()));
}

/// mpirun is the one process that is launched.
LaunchOptions launch_of_mpi(const GroupPlan& group, std::vector<std::string> command) {
  const std::string domains = fmt::format("FLEXEP_SCALEUP_SIZE={}", group.num_scaleup_ranks());
  command.insert(command.begin(), {"env", domains});
  return {.command = mpi_command(group.num_ranks, command), .prefix_output = false};
}

void run_processes(const GroupPlan& group, const Tally& tally) {
  std::vector<std::string> command = {own_executable()};
  for (auto& argument : rank_arguments(group, tally.path())) command.push_back(std::move(argument));
  const int code =
      launch(group.transport == "mpi"
                 ? launch_of_mpi(group, command)
                 : LaunchOptions{.num_ranks = group.num_ranks, .command = command, .prefix_output = false});
  if (code != 0) throw std::runtime_error(fmt::format("the ranks ended with exit code {}", code));
}

/// Runs the group; what it did not get to counts as failed.
void run_group(const GroupPlan& group, const Tally& tally) {
  const std::int64_t num_before = tally.num_run();
  try {
    if (group.transport == "in_process") {
      run_threads(group, tally);
    } else {
      run_processes(group, tally);
    }
  } catch (const std::exception& error) {
    const std::int64_t num_run = tally.num_run() - num_before;
    const std::int64_t case_idx = group.cases.first + num_run * group.cases.stride;
    fmt::print(
        "FAILED case {} ({}, {} ranks) and the {} after it, which did not run\n  {}\n  reproduce: {}\n",
        case_idx, group.transport, group.num_ranks, group.cases.num_cases - num_run - 1, error.what(),
        reproduce_command(group, case_idx));
    tally.counts().num_failed += group.cases.num_cases - num_run;
  }
}

int run(const CheckOptions& options) {
  if (Environment::read().rank || is_mpi_rank()) return run_as_rank(options);
  const auto groups = plan_groups(options);
  std::int64_t num_cases = 0;
  for (const auto& group : groups) num_cases += group.cases.num_cases;
  const Tally tally = Tally::create(num_cases);
  for (const auto& group : groups) {
    if (group.cases.num_cases > 0) run_group(group, tally);
  }
  return summarise(tally);
}

}  // namespace

void add_check_command(CLI::App& app, Runner& runner) {
  auto* command = app.add_subcommand(
      "check", "Holds random dispatches and combines on this machine against the reference");
  auto options = std::make_shared<CheckOptions>();
  command->add_option("--device", options->device, "cpu or cuda")->capture_default_str();
  command->add_option("--gpus", options->num_gpus, "GPUs that ranks take turns with; 0 = all that there are")
      ->capture_default_str();
  command->add_option("--memory", options->memory, "Of GPUs' ranks for rows: device or pinned_host")
      ->capture_default_str();
  command
      ->add_option("--transport", options->transport,
                   "in_process, shm, mpi (of which mpirun starts the ranks) or all, the first two")
      ->capture_default_str();
  command->add_option("--ranks", options->num_ranks, "Numbers of ranks; cases are shared out to them")
      ->delimiter(',')
      ->capture_default_str();
  command
      ->add_option("--domains", options->num_domains,
                   "Numbers of domains that ranks of in_process and mpi play, where they divide the ranks")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--cases", options->num_cases, "How many cases to run in all")->capture_default_str();
  command->add_option("--seed", options->seed, "Decides all cases")->capture_default_str();
  command->add_option("--case", options->case_idx, "Run only the case of this number, on each kind of group")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--first-case", options->first_case)->group("");
  command->add_option("--case-stride", options->case_stride)->group("");
  command->add_option("--tally", options->tally)->group("");
  command->callback([options, &runner] { runner = [options] { return run(*options); }; });
}

}  // namespace flexep::tool
