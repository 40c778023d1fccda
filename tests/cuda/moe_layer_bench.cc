// SPDX-License-Identifier: Apache-2.0
//
// How long a MoE layer takes on a GPU that all ranks share, one or the processes of a launcher:
//   [flexep launch -n 4 --] cuda_moe_layer_bench [--tokens 4096] [--hidden 7168] [--ffn 2048] [--experts 32]
//   [--topk 8]
//   [--iters 20]
// Milliseconds of the slowest rank, medians. The router's time is the host's, too; the rest is the GPU's.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "cuda_devices.h"
#include "flexep/cuda.h"
#include "flexep/moe/moe_layer.h"

namespace flexep::moe {
namespace {

const Device kGpu = Device::cuda(0);
using Options = std::map<std::string, int>;

Options parse(int argc, char** argv) {
  Options options{{"--tokens", 4096}, {"--hidden", 7168}, {"--ffn", 2048},
                  {"--experts", 32},  {"--topk", 8},      {"--iters", 20}};
  for (int i = 1; i + 1 < argc; i += 2) options.at(argv[i]) = std::stoi(argv[i + 1]);
  return options;
}

MoeConfig config_of(const Options& options, int num_ranks) {
  return {.hidden_size = options.at("--hidden"),
          .num_moe_experts = options.at("--experts"),
          .moe_ffn_hidden_size = options.at("--ffn"),
          .expert_model_parallel_size = num_ranks,
          .moe_router_topk = options.at("--topk"),
          .moe_token_dispatcher_type = TokenDispatcherType::kFlex,
          .moe_flex_dispatcher_backend = FlexDispatcherBackend::kDeepEpV2,
          .moe_permute_fusion = true};
}

Tensor normal_rows(const Options& options, int seed) {
  std::mt19937 random(static_cast<unsigned>(seed));
  std::normal_distribution<float> normal;
  const Tensor rows = Tensor::empty({options.at("--tokens"), options.at("--hidden")}, DType::kBFloat16);
  for (BFloat16& value : rows.values<BFloat16>()) value = BFloat16(normal(random));
  return cuda::to_device(rows, kGpu);
}

/// What one iteration took on one rank, in milliseconds.
struct Times {
  double forward = 0, forward_backward = 0, router = 0, dispatch = 0;
};

double ms_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

Times run(MoeLayer& layer, Communicator& comm, const Tensor& hidden, const Tensor& grad) {
  cuda::capture().wait();
  comm.barrier();
  const MoeSeconds before = layer.seconds();
  const auto start = std::chrono::steady_clock::now();
  auto forward = layer.forward(hidden);
  cuda::capture().wait();
  Times times{.forward = ms_since(start)};
  times.router = 1e3 * (layer.seconds().router - before.router);
  times.dispatch = 1e3 * (layer.seconds().dispatch - before.dispatch);
  layer.backward(std::move(forward.context), {.output = grad, .aux_loss = 0});
  cuda::capture().wait();
  times.forward_backward = ms_since(start);
  return times;
}

double median_of(const std::vector<Times>& iterations, double Times::*member) {
  std::vector<double> values;
  for (const Times& times : iterations) values.push_back(times.*member);
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

Times slowest_rank(Communicator& comm, const Times& mine) {
  Times slowest;
  for (const Times& each : comm.all_gather(mine))
    for (double Times::*member :
         {&Times::forward, &Times::forward_backward, &Times::router, &Times::dispatch})
      slowest.*member = std::max(slowest.*member, each.*member);
  return slowest;
}

void measure(const Options& options, Communicator& comm) {
  constexpr int kWarmups = 3;
  MoeLayer layer(config_of(options, comm.num_ranks()), std::make_shared<ExpertParallelGroup>(comm, kGpu),
                 /*seed=*/1);
  const Tensor hidden = normal_rows(options, 2 * comm.rank()),
               grad = normal_rows(options, 2 * comm.rank() + 1);
  std::vector<Times> iterations;
  for (int i = 0; i < kWarmups + options.at("--iters"); ++i) {
    const Times slowest = slowest_rank(comm, run(layer, comm, hidden, grad));
    if (i >= kWarmups) iterations.push_back(slowest);
  }
  if (comm.rank() != 0) return;
  const double products = 6.0 * comm.num_ranks() * options.at("--tokens") * options.at("--topk") *
                          options.at("--hidden") * options.at("--ffn");
  const double forward = median_of(iterations, &Times::forward);
  const double both = median_of(iterations, &Times::forward_backward);
  fmt::print(
      "{} ranks, {} tokens each, hidden {}, ffn {}, top-{} of {}: forward {:.3f} ms (router {:.3f}, dispatch "
      "{:.3f}), with backward {:.3f} ms; experts' products alone: {:.1f} TFLOP forward, all steps counted "
      "{:.0f} "
      "and {:.0f} TFLOPS\n",
      comm.num_ranks(), options.at("--tokens"), options.at("--hidden"), options.at("--ffn"),
      options.at("--topk"), options.at("--experts"), forward, median_of(iterations, &Times::router),
      median_of(iterations, &Times::dispatch), both, products / 1e12, products / forward / 1e9,
      3 * products / both / 1e9);
}

}  // namespace
}  // namespace flexep::moe

int main(int argc, char** argv) {
  const auto options = flexep::moe::parse(argc, argv);
  if (const std::string reason = flexep::tool::why_no_cuda_device(); !reason.empty()) {
    fmt::print(stderr, "{}\n", reason);
    return 1;
  }
  flexep::Communicator comm = flexep::Communicator::from_environment();
  flexep::moe::measure(options, comm);
}
