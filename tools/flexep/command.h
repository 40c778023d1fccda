// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

namespace CLI {
class App;
}

/// What the subcommands of `flexep` share.
namespace flexep::tool {

/// What was typed, for a command that starts itself again as ranks.
struct Arguments {
  int argc = 0;
  const char* const* argv = nullptr;
};

/// The chosen subcommand's work; returns the exit code. Errors leave it as exceptions, main.cc says them.
using Runner = std::function<int()>;

/// Each declares its options on `app` and, when it is the chosen one, sets `runner`.
void add_bench_command(CLI::App& app, const Arguments& arguments, Runner& runner);
void add_check_command(CLI::App& app, Runner& runner);
void add_doctor_command(CLI::App& app, Runner& runner);
void add_launch_command(CLI::App& app, Runner& runner);
void add_plan_command(CLI::App& app, Runner& runner);
void add_version_command(CLI::App& app, Runner& runner);

}  // namespace flexep::tool
