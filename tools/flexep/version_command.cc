// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "build_info.h"
#include "command.h"
#include "errors.h"

namespace flexep::tool {
namespace {

int print_version() {
  const BuildInfo info = build_info();
  fmt::print("flexep {}\n", info.version);
  if (!info.commit.empty())
    fmt::print("commit      {}{}\n", info.commit, info.dirty ? " with local changes" : "");
  fmt::print("build type  {}\n", info.build_type);
  fmt::print("compiler    {}\n", info.compiler);
  fmt::print("transports  {}\n", info.transports);
  fmt::print("devices     {}\n", info.devices);
  return kOk;
}

}  // namespace

void add_version_command(CLI::App& app, Runner& runner) {
  auto* command = app.add_subcommand("version", "Says what this binary is and what it can do");
  command->callback([&runner] { runner = print_version; });
}

}  // namespace flexep::tool
