// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <stdexcept>

/// What the subcommands of `flexep` share.
namespace flexep::tool {

/// Exit codes of the command.
enum ExitCode : int {
  kOk = 0,
  kFailed = 1,  ///< something failed or could not be verified
  kUsage = 2,
  kNotAvailable = 3,  ///< asked for something that this machine or this build does not have
};

/// A wrong option. what() is one sentence that names the option and its value.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Something that is not available here. what() is one sentence that says what, and why.
class NotAvailable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

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
