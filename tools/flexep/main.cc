// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>

#include "command.h"
#include "errors.h"

namespace {

using namespace flexep::tool;

int say(std::string_view what, ExitCode code) {
  fmt::print(stderr, "flexep: {}\n", what);
  return code;
}

/// What was typed and nobody knows; a "--" before it is not to blame.
std::string unknown_argument(const CLI::App& app) {
  for (const auto& argument : app.remaining(true)) {
    if (argument != "--") return fmt::format("{}: no such option or subcommand, see --help", argument);
  }
  return "--: nothing may follow, see --help";
}

/// What was printed may wait in memory for a disk that is full.
int flushed(int code) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  return say("standard output cannot be written", kFailed);
}

int run(int argc, const char* const* argv) {
  CLI::App app("Expert parallelism everywhere: checks, measures and starts flexep on this machine.",
               "flexep");
  app.require_subcommand(0, 1);
  Runner runner;
  add_bench_command(app, {.argc = argc, .argv = argv}, runner);
  add_check_command(app, runner);
  add_doctor_command(app, runner);
  add_launch_command(app, runner);
  add_plan_command(app, runner);
  add_version_command(app, runner);

  try {
    app.parse(argc, argv);
    if (!runner) throw UsageError("a subcommand is required, see --help");
    return flushed(runner());
  } catch (const CLI::Success& help) {
    return flushed(app.exit(help));
  } catch (const CLI::ExtrasError&) {
    return say(unknown_argument(app), kUsage);
  } catch (const CLI::ParseError& error) {
    return say(error.what(), kUsage);
  } catch (const UsageError& error) {
    return say(error.what(), kUsage);
  } catch (const NotAvailable& error) {
    return say(error.what(), kNotAvailable);
  } catch (const std::exception& error) {
    return say(error.what(), kFailed);
  }
}

}  // namespace

int main(int argc, char** argv) {
  return run(argc, argv);
}
