// SPDX-License-Identifier: Apache-2.0
//
// `flexep check` without the other subcommands, which take longer to compile than all that it runs.
#include <CLI/CLI.hpp>

#include "command.h"

int main(int argc, char** argv) {
  CLI::App app;
  flexep::tool::Runner runner;
  flexep::tool::add_check_command(app, runner);
  CLI11_PARSE(app, argc, argv);
  return runner();
}
