// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "command.h"
#include "errors.h"
#include "json_output.h"
#include "plan/calibration.h"
#include "plan/growth.h"
#include "plan/plan.h"
#include "plan/plan_options.h"
#include "plan/plan_report.h"

namespace flexep::tool {
namespace {

/// The text, and what --json asks for; "-" asks for JSON alone.
template <typename... Parts>
int report(const PlanOptions& options, const Parts&... parts) {
  if (!options.json_file.empty()) write_json_output(options.json_file, json_of(parts...));
  if (!options.prints_json()) fmt::print("{}", text_of(parts...));
  return kOk;
}

int simulate_growth(const PlanOptions& options, const PlanInputs& inputs) {
  std::vector<GrowthStep> steps;
  for (const PlanInputs& step : growing(inputs, options.max_ranks)) steps.push_back(simulate_all(step));
  return report(options, steps);
}

int run(const PlanOptions& options) {
  if (!options.calibrate.empty()) return report(options, calibrate(read_measurements(options.calibrate)));
  const PlanInputs inputs = resolve(options);
  if (options.simulate) return simulate_growth(options, inputs);
  return report(options, make_plan(inputs), make_plan(with_twice_the_ranks(inputs)));
}

}  // namespace

void add_plan_command(CLI::App& app, Runner& runner) {
  auto* command = app.add_subcommand(
      "plan", "Says what dispatch and combine will move, keep and take on machines that need not be there");
  auto options = std::make_shared<PlanOptions>();
  const auto add = [&](const char* name, auto& value, const char* what) {
    return command->add_option(name, value, what)->capture_default_str();
  };
  add("--topology", options->topology, "SOxSU: SO domains of SU ranks, which reach each other's memory");
  add("--experts", options->num_experts, "Experts in all");
  add("--topk", options->num_topk, "Experts of each token");
  add("--tokens", options->num_tokens, "Tokens of each rank");
  add("--hidden", options->hidden, "Elements of a row");
  add("--dtype", options->dtype, "bf16, fp16, fp32 or fp64");
  add("--alignment", options->expert_alignment, "Rows of an expert are a multiple of this, expanded");
  add("--skew", options->skew, "uniform, or zipf:S: expert e is chosen in proportion to 1 / (e + 1)^S");
  add("--seed", options->seed, "Of the routing that is drawn where it is skewed or simulated");
  add("--link-gbs", options->link_gbs, "GB/s (1e9 bytes) of a rank's link inside its domain, each direction");
  add("--net-gbs", options->net_gbs, "GB/s of a rank's network link between domains, each direction");
  add("--memory-gbs", options->memory_gbs, "GB/s of a rank's memory, read and written bytes together");
  add("--link-us", options->link_us, "Latency inside a domain");
  add("--net-us", options->net_us, "Latency between domains");
  add("--message-us", options->message_us, "Time of a message between domains beside its bytes");
  add("--chunk-mib", options->chunk_mib, "Longest message between domains");
  add("--machine", options->machine_file,
      "Costs that --calibrate wrote, in place of --link-* and --memory-gbs");
  command->add_flag(
      "--simulate", options->simulate,
      "Simulate every rank, over the library's own planning, with 1, 2, 4 ... domains of SU ranks");
  add("--max-ranks", options->max_ranks, "The most ranks that are simulated");
  command
      ->add_option(
          "--calibrate", options->calibrate,
          "Files that flexep bench --json wrote: fit the costs of this machine to one half of them and "
          "predict the other; with --json, a file for --machine")
      ->expected(1, -1);
  add("--json", options->json_file,
      "File to write the figures to; - for standard output instead of the text");
  command->callback([options, &runner] { runner = [options] { return run(*options); }; });
}

}  // namespace flexep::tool
