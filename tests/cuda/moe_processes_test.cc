// SPDX-License-Identifier: Apache-2.0
//
// A MoE layer whose ranks are processes and take turns with the GPUs, against the same layer on the CPU.
// Forked from the test, which itself never uses CUDA.
#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "cuda/gpus.h"
#include "flexep/cuda.h"
#include "moe/layer_step.h"
#include "support/processes.h"

namespace flexep::moe {
namespace {

using flexep::testing::this_gpu;
using flexep::testing::use_gpu_of;
using moe::testing::converted;
using moe::testing::distance;
using moe::testing::Matrix;
using moe::testing::random_tensor;
using moe::testing::rows_of;
using test::Processes;

constexpr int kDone = 0;
constexpr int kWrong = 1;
constexpr int kNoGpu = 77;

/// Output, then the gradient of hidden, of a step on the device; several, so that memory is used again.
std::vector<Matrix> run_steps(Communicator& comm, const MoeConfig& config, Device device) {
  const auto group = std::make_shared<ExpertParallelGroup>(comm, device);
  MoeLayer layer(config, group, /*seed=*/3);
  std::vector<Matrix> results;
  for (std::uint64_t step = 0; step < 4; ++step) {
    const std::uint64_t seed = 10 * step + static_cast<std::uint64_t>(comm.rank());
    const std::int64_t num_tokens =
        (comm.rank() + static_cast<int>(step)) % 4 == 1 ? 0 : 50 + 30 * comm.rank();
    const auto rows = [&](std::uint64_t which) {
      const Tensor host =
          converted<BFloat16>(random_tensor(num_tokens, config.hidden_size, 2 * seed + which));
      return device.is_host() ? host : cuda::to_device(host, device);
    };
    auto forward = layer.forward(rows(0));
    const auto grads = layer.backward(std::move(forward.context), {.output = rows(1), .aux_loss = 0.5});
    group->buffer().check();
    for (const Tensor& result : {forward.output, grads.hidden.value()})
      results.push_back(rows_of(device.is_host() ? result : cuda::to_host(result)));
  }
  return results;
}

int compare_with_the_cpu(int num_ranks) {
  if (!tool::why_no_cuda_device().empty()) return kNoGpu;
  Communicator comm = Communicator::from_environment({.timeout = std::chrono::seconds(60)});
  use_gpu_of(comm.rank());
  const MoeConfig config{.hidden_size = 64,
                         .num_moe_experts = 8,
                         .moe_ffn_hidden_size = 48,
                         .expert_model_parallel_size = num_ranks,
                         .moe_router_topk = 3,
                         .moe_aux_loss_coeff = 0.1,
                         .moe_token_dispatcher_type = TokenDispatcherType::kFlex,
                         .moe_flex_dispatcher_backend = FlexDispatcherBackend::kDeepEpV2,
                         .moe_permute_fusion = true};
  const auto expected = run_steps(comm, config, Device::host()), got = run_steps(comm, config, this_gpu());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(expected[i].size(), got[i].size()) << i;
    if (expected[i].empty()) continue;  // a rank without tokens
    EXPECT_LT(distance(expected[i], got[i]), 0.02) << i;
  }
  return ::testing::Test::HasFailure() ? kWrong : kDone;
}

TEST(CudaMoeProcessesTest, NarrowRowsStayCloseToTheCpu) {
  for (const int num_ranks : {2, 4}) {
    Processes processes("cuda-moe-" + std::to_string(num_ranks) + "-" + std::to_string(getpid()), num_ranks,
                        [&](int) { return compare_with_the_cpu(num_ranks); });
    for (int rank = 0; rank < num_ranks; ++rank) {
      const int code = processes.exit_code_of(rank);
      if (code == kNoGpu) GTEST_SKIP() << "no GPU";
      EXPECT_EQ(code, kDone) << "rank " << rank;
    }
  }
}

}  // namespace
}  // namespace flexep::moe
