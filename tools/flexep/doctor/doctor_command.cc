// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "command.h"
#include "doctor/doctor_report.h"
#include "doctor/probes.h"
#include "errors.h"
#include "json_output.h"

namespace flexep::tool {
namespace {

struct Options {
  std::string root = "/";
  std::string json_file;
};

int run(const Options& options) {
  if (!std::filesystem::is_directory(options.root))
    throw UsageError(fmt::format("--root {}: there is no such folder", options.root));
  const char* search_path = std::getenv("PATH");
  const MachineFacts facts =
      probe_machine(MachineRoot(options.root), search_path != nullptr ? search_path : "");
  if (!options.json_file.empty()) write_json_output(options.json_file, json_of(facts));
  if (options.json_file != "-") fmt::print("{}", text_of(facts));
  return kOk;
}

}  // namespace

void add_doctor_command(CLI::App& app, Runner& runner) {
  auto* command = app.add_subcommand(
      "doctor", "Says what this machine has, what flexep chooses on it, and what will hurt, with a remedy");
  auto options = std::make_shared<Options>();
  command
      ->add_option("--root", options->root,
                   "Folder that holds the /proc, /sys and /usr to look at; GPUs are this machine's")
      ->capture_default_str();
  command->add_option("--json", options->json_file,
                      "File to write the same to; - for standard output instead of the text");
  command->callback([options, &runner] { runner = [options] { return run(*options); }; });
}

}  // namespace flexep::tool
