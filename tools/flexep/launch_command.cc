// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "command.h"
#include "errors.h"
#include "launcher/launcher.h"

namespace flexep::tool {
namespace {

/// As many as a group may have.
constexpr int kMaxRanks = 4096;

struct Options {
  int num_ranks = 1;
  double grace_secs = 5;
  bool no_prefix = false;
  std::vector<std::string> command;
};

int run(const Options& options) {
  if (options.num_ranks < 1 || options.num_ranks > kMaxRanks)
    throw UsageError(fmt::format("-n {}: not from 1 to {}", options.num_ranks, kMaxRanks));
  if (!(options.grace_secs >= 0 && options.grace_secs <= 1e6)) {
    throw UsageError(
        fmt::format("--grace-secs {}: not a number of seconds from 0 to 1000000", options.grace_secs));
  }
  const std::chrono::duration<double> grace(options.grace_secs);
  return launch({.num_ranks = options.num_ranks,
                 .command = options.command,
                 .prefix_output = !options.no_prefix,
                 .grace = std::chrono::duration_cast<std::chrono::milliseconds>(grace)});
}

}  // namespace

void add_launch_command(CLI::App& app, Runner& runner) {
  auto* command =
      app.add_subcommand("launch", "Runs a program as the ranks of one job, as processes of this machine");
  auto options = std::make_shared<Options>();
  command->add_option("-n,--ranks", options->num_ranks, "Number of ranks")->required();
  command->add_option("--grace-secs", options->grace_secs,
                      "How long the other ranks may go on after one has failed (default 5)");
  command->add_flag("--no-prefix", options->no_prefix, "Leave the ranks' output as it is");
  command->add_option("command", options->command, "-- program and its arguments")->required();
  command->positionals_at_end();
  command->callback([options, &runner] { runner = [options] { return run(*options); }; });
}

}  // namespace flexep::tool
