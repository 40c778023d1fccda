// SPDX-License-Identifier: Apache-2.0
//
// Thousands of rounds of dispatch and combine on a GPU, every row of each compared on the device. Ranks are
// threads, or the processes of a job: `flexep launch -n 8 -- cuda_stress --rounds 10000`.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>

#include "cuda/stress/stress_rank.h"
#include "cuda_devices.h"
#include "device.h"
#include "flexep/env.h"

namespace {

using namespace flexep;
using namespace flexep::stress;

struct Options {
  int num_ranks = 4;
  int num_domains = 1;
  int num_rounds = 300;
  int first_round = 0;
  std::uint64_t seed = 1;
  int num_gpus = 0;
  std::string memory = "device";
};

CommunicatorOptions communicator_options(int num_scaleup_ranks = 0) {
  CommunicatorOptions options{.num_scaleup_ranks = num_scaleup_ranks};
  if (!Environment::read().timeout_secs) options.timeout = std::chrono::seconds(30);
  return options;
}

void describe(const Findings& findings, int rank) {
  constexpr const char* kNames[] = {"dispatch, recv.x",  "cached dispatch, recv.x",
                                    "combine, x",        "recv.topk_idx, as words",
                                    "recv.topk_weights", "combine, topk_weights"};
  fmt::print(stderr,
             "rank {}: {} wrong; the first in round {}: {}, row {}, column {}: expected {:#x}, got {:#x}\n",
             rank, findings.num_wrong, findings.content / 2, kNames[static_cast<int>(findings.what)],
             findings.row, findings.column, findings.expected_bits, findings.got_bits);
}

/// What a rank tells the others in the end.
struct Outcome {
  unsigned long long num_wrong = 0;
  unsigned long long num_compared = 0;
  bool is_complete = false;  ///< everything was compared, by a comparison that notices mistakes
};

/// All rounds on one rank. @return whether nothing was wrong on any.
bool run_rank(Communicator& comm, const Options& options) {
  const auto begin = std::chrono::steady_clock::now();
  StressRank rank(comm, tool::device_of("cuda", options.num_gpus, comm.rank()), options.seed,
                  tool::arena_memory_of(options.memory));
  for (int i = 0; i < options.num_rounds; ++i)
    rank.run(draw_round(options.seed, options.first_round + i, comm.num_ranks()));
  rank.finish();
  const Findings findings = rank.findings();
  if (findings.num_wrong > 0) describe(findings, comm.rank());
  const bool is_complete = findings.num_compared == rank.num_to_compare() && rank.would_notice();
  const auto outcomes = comm.all_gather(Outcome{findings.num_wrong, findings.num_compared, is_complete});

  unsigned long long num_wrong = 0, num_compared = 0;
  for (const Outcome& outcome : outcomes) {
    num_wrong += outcome.num_wrong;
    num_compared += outcome.num_compared;
  }
  const bool all_complete = std::all_of(outcomes.begin(), outcomes.end(),
                                        [](const Outcome& outcome) { return outcome.is_complete; });
  if (comm.rank() == 0) {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    fmt::print("{} rounds on {} ranks ({}), seed {}: {} rows and words compared, {} wrong{}; {:.1f} s\n",
               options.num_rounds, comm.num_ranks(), comm.transport_name(), options.seed, num_compared,
               num_wrong, all_complete ? "" : ", and NOT ALL WERE COMPARED", seconds.count());
  }
  return num_wrong == 0 && all_complete;
}

int run(const Options& options) {
  if (const std::string reason = tool::why_no_cuda_device(); !reason.empty()) {
    fmt::print("SKIPPED: {}\n", reason);
    return 0;
  }
  std::atomic<bool> is_right{true};
  const auto rank = [&](Communicator& comm) {
    if (!run_rank(comm, options)) is_right = false;
  };
  if (Environment::read().rank) {
    Communicator comm = Communicator::from_environment(communicator_options());
    rank(comm);
  } else {
    in_process(options.num_ranks, rank, communicator_options(options.num_ranks / options.num_domains));
  }
  return is_right ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Thousands of rounds of dispatch and combine on a GPU, every row compared", "cuda_stress");
  Options options;
  app.add_option("--ranks", options.num_ranks, "Number of ranks, where they are threads")
      ->capture_default_str();
  app.add_option("--domains", options.num_domains,
                 "Number of domains that threads play, which divides the ranks")
      ->capture_default_str();
  app.add_option("--rounds", options.num_rounds)->capture_default_str();
  app.add_option("--first-round", options.first_round, "The number of the first round")
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Decides all rounds")->capture_default_str();
  app.add_option("--gpus", options.num_gpus, "That ranks take turns with; 0 = all")->capture_default_str();
  app.add_option("--memory", options.memory, "Of arenas: device or pinned_host")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    return run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "cuda_stress: {}\n", error.what());
    return 1;
  }
}
