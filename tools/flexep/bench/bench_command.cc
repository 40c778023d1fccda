// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <memory>

#include "bench/bench_options.h"
#include "bench/layer_bench.h"
#include "bench/measure.h"
#include "bench/report.h"
#include "command.h"
#include "errors.h"
#include "flexep/env.h"
#include "launcher/launcher.h"
#include "mpi_launch.h"

namespace flexep::tool {
namespace {

/// What was typed, without the path of the program.
std::string typed_command(const Arguments& arguments) {
  std::string command = "flexep";
  for (int i = 1; i < arguments.argc; ++i) command += fmt::format(" {}", arguments.argv[i]);
  return command;
}

/// All of the benchmark on one rank; rank 0 reports.
int run_rank(const BenchOptions& options, const Communicator& comm, const std::string& command) {
  BenchResults results;
  if (options.has_buffer_op()) {
    BenchRank rank(options, comm);
    results.operations = measure(rank);
  }
  if (options.has_op("layer")) results.layers = measure_layers(options, comm);
  if (comm.rank() == 0) {
    if (options.json_file != "-") print_tables(options, results);
    if (!options.json_file.empty()) write_json(options, results, command);
  }
  return results.verified() ? kOk : kFailed;
}

int run_as_process_of_a_job(const BenchOptions& options, const std::string& command) {
  const Communicator comm = Communicator::from_environment({.num_scaleup_ranks = options.scaleup_size()});
  if (comm.num_ranks() != options.num_ranks) {
    throw UsageError(fmt::format("--ranks {}: the job has {}", options.num_ranks, comm.num_ranks()));
  }
  return run_rank(options, comm, command);
}

int run_threads(const BenchOptions& options, const std::string& command) {
  std::atomic<int> code{kOk};
  in_process(options.num_ranks,
             [&](Communicator& comm) {
               if (run_rank(options, comm, command) != kOk) code = kFailed;
             },
             {.num_scaleup_ranks = options.scaleup_size()});
  return code;
}

int run_processes(const BenchOptions& options, const Arguments& arguments) {
  std::vector<std::string> program = own_command(arguments.argc, arguments.argv);
  // mpirun is then the one process of the job that is launched, and its ranks inherit the job's id.
  if (options.transport == "mpi" || options.has_op("baseline_alltoallv")) {
    return launch({.command = mpi_command(options.num_ranks, program), .prefix_output = false});
  }
  return launch({.num_ranks = options.num_ranks, .command = std::move(program), .prefix_output = false});
}

int run(const BenchOptions& options, const Arguments& arguments) {
  validate(options);
  if (options.transport == "in_process") return run_threads(options, typed_command(arguments));
  if (options.transport == "mpi") {
    if (is_mpi_rank()) return run_as_process_of_a_job(options, typed_command(arguments));
    return run_processes(options, arguments);
  }
  adopt_mpi_ranks();
  if (Environment::read().rank) return run_as_process_of_a_job(options, typed_command(arguments));
  return run_processes(options, arguments);
}

}  // namespace

void add_bench_command(CLI::App& app, const Arguments& arguments, Runner& runner) {
  auto* command =
      app.add_subcommand("bench", "Measures dispatch and combine against what the machine can do");
  auto options = std::make_shared<BenchOptions>();
  const auto add = [&](const char* name, auto& value, const char* what) {
    return command->add_option(name, value, what)->capture_default_str();
  };
  add("--device", options->device, "cpu or cuda");
  add("--gpus", options->num_gpus,
      "GPUs that ranks take turns with; 0 = all that there are. With several, the floor is the slower of "
      "copies in "
      "device memory and copies between GPUs");
  add("--transport", options->transport,
      "shm (processes), in_process (threads) or mpi (processes that mpirun starts)");
  add("--ranks", options->num_ranks,
      "Number of ranks; starts them unless RANK is set, or mpirun has started this");
  add("--domains", options->num_domains,
      "Domains that the ranks of in_process or mpi play; 0 = 1, and for mpi as many as there are machines");
  add("--mode", options->mode, "How rows cross between domains: hybrid or direct");
  add("--tokens", options->num_tokens, "Tokens of each rank");
  add("--hidden", options->hidden, "Elements of a row");
  add("--topk", options->num_topk, "Experts of each token");
  add("--experts", options->num_experts, "Experts in all");
  add("--ffn", options->ffn, "Feed-forward size of the experts, for layer");
  add("--shared-ffn", options->shared_ffn,
      "Feed-forward size of a shared expert, for layer; 0 = none. With one, its overlap is measured too");
  add("--dtype", options->dtype,
      "bf16, fp32, fp64, or fp8_e4m3 with a scaling factor for each 128 elements, which dispatch alone "
      "moves");
  add("--layout", options->layout, "compact or expanded");
  add("--ops", options->ops,
      "Of dispatch, cached_dispatch, combine, round_trip, exchange (a dispatch without tokens), checks (what "
      "dispatch does only to find mistakes), baseline_alltoallv, layer (a MoE layer, forward and backward, "
      "with every dispatcher; its router decides the routing)")
      ->delimiter(',');
  add("--input", options->input, "Where inputs lie: arena, ordinary or registered memory");
  add("--memory", options->memory,
      "Of a GPU's ranks for rows: device, or pinned_host, over PCIe; the floor is then a copy over PCIe");
  add("--sync", options->sync,
      "host: a dispatch waits for the counts, and its outputs have the size that arrives; none: it does not, "
      "and they have room for all that may arrive");
  add("--graph", options->num_ops_per_graph,
      "On a GPU: captures so many operations into a CUDA graph and times its replays, per operation; 0 = no "
      "graph. With "
      "--sync none. In the end rows are verified with other ids than those that were captured");
  add("--active-ranks", options->num_active_ranks,
      "How many ranks have tokens, the first ones; 0 = all. With fewer than all, what each thread or "
      "multiprocessor of "
      "those moves is printed, too");
  command->add_flag(
      "--gemm-beside", options->runs_gemm_beside,
      "On a GPU: also measures how much a product of bf16 matrices, on the multiprocessors that "
      "communication leaves over, slows down while the operations run");
  add("--routing", options->routing, "uniform, or zipf:S: expert e is chosen in proportion to 1 / (e + 1)^S");
  add("--num-sms", options->num_sms,
      "Threads, or multiprocessors of a GPU, of each rank; 0 = the library's default");
  add("--warmup", options->num_warmups, "Iterations that do not count");
  add("--iters", options->num_iters, "Iterations that count");
  add("--seed", options->seed, "Decides routing and rows");
  add("--json", options->json_file,
      "File to write the results to; - for standard output instead of the tables");
  command->callback(
      [options, arguments, &runner] { runner = [options, arguments] { return run(*options, arguments); }; });
}

}  // namespace flexep::tool
