// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>

#include "flexep/env.h"
#include "flexep/error.h"
#include "moe_lm/layer_memory.h"

namespace moe_lm {
namespace {

namespace moe = flexep::moe;

/// What the defaults are tuned for: about a minute on two cores.
moe::MoeConfig default_moe_config() {
  return {.hidden_size = 128,
          .num_moe_experts = 16,
          .moe_ffn_hidden_size = 256,
          .moe_router_topk = 2,
          .moe_aux_loss_coeff = 0.1,
          .moe_token_dispatcher_type = moe::TokenDispatcherType::kFlex,
          .moe_flex_dispatcher_backend = moe::FlexDispatcherBackend::kDeepEpV2,
          .moe_permute_fusion = true,
          .init_method_std = 0.05};
}

void add_options(CLI::App& app, Options& options) {
  app.add_option("--text", options.text_files,
                 "Files to train on (default: the C++ standard library's headers)")
      ->check(CLI::ExistingFile);
  app.add_option("--text-bytes", options.text_bytes, "Read at most so many bytes")
      ->check(CLI::PositiveNumber);
  app.add_option("--ranks", options.num_ranks,
                 "Ranks to train with; started here unless RANK is set or a launcher of MPI has started them")
      ->check(CLI::Range(1, 4096));
  app.add_option("--transport", options.transport, "shm (ranks are processes) or in_process (threads)")
      ->check(CLI::IsMember({"shm", "in_process"}));
  app.add_option(
         "--device", options.device,
         "Where the MoE layers compute: cpu, or cuda: ranks take turns with the GPUs; the rest of the "
         "model is on the CPU. Ranks that are processes need the multi-process service (MPS)")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--steps", options.num_steps, "Optimizer steps")->check(CLI::PositiveNumber);
  app.add_option("--batch", options.batch_size, "Samples of one step, over all ranks")
      ->check(CLI::PositiveNumber);
  app.add_option("--heldout-samples", options.heldout_samples,
                 "Samples that the held-out loss is measured on")
      ->check(CLI::PositiveNumber);
  app.add_option("--learning-rate", options.learning_rate, "Peak learning rate")->check(CLI::PositiveNumber);
  app.add_option("--seed", options.seed, "Of initial weights and batches");
  app.add_option("--blocks", options.num_blocks, "Residual MoE blocks")->check(CLI::Range(1, 64));
  app.add_option("--embedding-dim", options.embedding_dim, "Size of a byte's vector")
      ->check(CLI::Range(1, 4096));
  app.add_option("--json", options.json_file, "Write the results here as JSON");
}

/// Each option of MoeConfig under its own name. The sizes that follow from the ranks and the dtype are not
/// for the user.
void add_moe_options(CLI::App& app, moe::MoeConfig& config) {
  for (const moe::MoeOption& option : moe::moe_options()) {
    if (option.name == "expert_model_parallel_size" || option.name == "params_dtype") continue;
    const auto set = [&config, &option](const std::string& value) {
      try {
        option.set(config, value.empty() ? "true" : value);
      } catch (const flexep::InvalidArgument& error) {
        throw CLI::ValidationError(option.flag(), error.what());
      }
    };
    auto* added = app.add_option_function<std::string>(option.flag(), set, std::string(option.help));
    added->default_str(option.get(config))->group("MoE layer");
    if (option.type == moe::OptionType::kBoolean) added->expected(0, 1);
  }
}

/// How many ranks somebody else has started, this process among them.
std::optional<int> started_ranks() {
  const flexep::Environment environment = flexep::Environment::read();
  if (environment.rank) return environment.world_size.value_or(1);
  return environment.mpi_num_ranks;
}

void adopt_environment(const CLI::App& app, Options& options) {
  const auto num_started = started_ranks();
  if (!num_started) return;
  if (options.transport == "in_process") {
    throw UsageError(
        "--transport in_process starts its own ranks, but this process is one: RANK is set, or a launcher of "
        "MPI has started it");
  }
  if (app.count("--ranks") > 0 && options.num_ranks != *num_started) {
    throw UsageError(
        fmt::format("--ranks {} contradicts the job, which has {}: WORLD_SIZE, or what mpirun says",
                    options.num_ranks, *num_started));
  }
  options.num_ranks = *num_started;
  options.is_rank_of_a_job = true;
}

void finish_moe_config(const CLI::App& app, Options& options) {
  moe::MoeConfig& config = options.moe;
  const bool has_loss = config.moe_router_load_balancing_type != moe::RouterLoadBalancing::kNone &&
                        config.moe_router_load_balancing_type != moe::RouterLoadBalancing::kSinkhorn;
  if (!has_loss && app.count("--moe-aux-loss-coeff") == 0) {
    config.moe_aux_loss_coeff = 0;  // our default is meant for kinds of balancing that have a loss
  }
  if (options.num_ranks % config.expert_tensor_parallel_size != 0) {
    throw UsageError(fmt::format("--expert-tensor-parallel-size {} does not divide --ranks {}",
                                 config.expert_tensor_parallel_size, options.num_ranks));
  }
  config.expert_model_parallel_size = options.num_ranks / config.expert_tensor_parallel_size;
  try {
    config.validate();
  } catch (const flexep::InvalidArgument& error) {
    throw UsageError(error.what());
  }
}

void require_device(const Options& options) {
  if (options.device == "cpu") return;
  const std::string reason = why_no_gpu(options.transport == "in_process" && options.num_ranks > 1);
  if (!reason.empty()) throw UsageError(fmt::format("--device cuda: {}", reason));
}

/// Now, rather than after a minute of training.
void require_writable(const std::string& json_file) {
  const auto directory = std::filesystem::absolute(json_file).parent_path();
  if (::access(directory.c_str(), W_OK) != 0)
    throw UsageError(fmt::format("--json: cannot write to {}", directory.string()));
}

}  // namespace

Options parse_options(int argc, const char* const* argv) {
  Options options;
  options.moe = default_moe_config();
  CLI::App app(
      "Trains a byte-level mixture-of-experts language model, its experts spread over several ranks.",
      "moe_lm");
  app.option_defaults()->always_capture_default();
  add_options(app, options);
  add_moe_options(app, options.moe);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    throw HelpRequested(app.help());
  } catch (const CLI::ParseError& error) {
    throw UsageError(error.what());
  }
  adopt_environment(app, options);
  finish_moe_config(app, options);
  require_device(options);
  if (!options.json_file.empty()) require_writable(options.json_file);
  return options;
}

}  // namespace moe_lm
