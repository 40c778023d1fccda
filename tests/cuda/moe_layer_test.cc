// SPDX-License-Identifier: Apache-2.0
//
// The MoE layer on a GPU against the same layer on the CPU.
#include "flexep/moe/moe_layer.h"

#include <gtest/gtest.h>

#include <random>

#include "cuda_devices.h"
#include "flexep/cuda.h"
#include "moe/layer_step.h"

namespace flexep::moe {
namespace {

using testing::config_of;
using testing::converted;
using testing::distance;
using testing::Division;
using testing::kGradAuxLoss;
using testing::LayerBatch;
using testing::Matrix;
using testing::near;
using testing::Placement;
using testing::random_batch;
using testing::random_tensor;
using testing::rejected_argument;
using testing::rows_of;
using testing::run_step;
using testing::Step;

const Device kGpu = Device::cuda(0);

// Rows of type T, on the CPU and on the GPU.
template <typename T>
Placement on_cpu() {
  return {.to_layer = converted<T>};
}
template <typename T>
Placement on_gpu() {
  return {.device = kGpu,
          .to_layer = [](const Tensor& tensor) { return cuda::to_device(converted<T>(tensor), kGpu); },
          .to_host = cuda::to_host};
}

void expect_near(const Step& expected, const Step& got, double tolerance, double grad_tolerance) {
  EXPECT_TRUE(near(expected.output, got.output, tolerance));
  EXPECT_NEAR(expected.aux_loss, got.aux_loss, tolerance);
  EXPECT_TRUE(near(expected.grad_hidden, got.grad_hidden, grad_tolerance));
  for (std::size_t rank = 0; rank < expected.grads.size(); ++rank) {
    const auto check = [&](const char* name, const Tensor& one, const Tensor& other) {
      ASSERT_EQ(one.defined(), other.defined()) << name;
      if (!one) return;
      EXPECT_EQ(one.dtype(), other.dtype()) << name;
      EXPECT_TRUE(near(rows_of(one), other, grad_tolerance)) << name << " of rank " << rank;
    };
    const auto &one = expected.grads[rank], &other = got.grads[rank];
    check("router_weight", one.router_weight, other.router_weight);
    check("fc1", one.experts.fc1, other.experts.fc1);
    check("fc2", one.experts.fc2, other.experts.fc2);
    check("latent.down", one.latent.down, other.latent.down);
    check("latent.up", one.latent.up, other.latent.up);
    check("shared_expert.fc1", one.shared_expert.fc1, other.shared_expert.fc1);
    check("shared_expert.fc2", one.shared_expert.fc2, other.shared_expert.fc2);
    check("shared_expert.gate", one.shared_expert.gate, other.shared_expert.gate);
  }
}

LayerBatch batch_for(const MoeConfig& config) {
  std::vector<std::int64_t> num_tokens;
  for (int rank = 0; rank < config.num_ranks(); ++rank)
    num_tokens.push_back(std::vector<std::int64_t>{37, 0, 21, 64}[static_cast<std::size_t>(rank)]);
  return random_batch(num_tokens, config.hidden_size);
}

template <typename T>
void expect_same_as_on_the_cpu(const MoeConfig& config, double tolerance, double grad_tolerance) {
  const LayerBatch batch = batch_for(config);
  expect_near(run_step(config, batch, {}, on_cpu<T>()), run_step(config, batch, {}, on_gpu<T>()), tolerance,
              grad_tolerance);
}

class CudaMoeLayerTest : public ::testing::TestWithParam<Division> {
 protected:
  void SetUp() override {
    if (const std::string reason = tool::why_no_cuda_device(); !reason.empty()) GTEST_SKIP() << reason;
    config.hidden_size = 16;
    config.moe_ffn_hidden_size = 24;
    config.moe_aux_loss_coeff = 0.3;
  }
  // Another order of sums is all that differs in double precision.
  void expect_same() const { expect_same_as_on_the_cpu<double>(config, 1e-11, 1e-11); }

  MoeConfig config = config_of(GetParam());
};

TEST_P(CudaMoeLayerTest, OutputAndAllGradientsAreThoseOfTheCpu) {
  expect_same();
}

TEST_P(CudaMoeLayerTest, SoAreTheyWithSigmoidScoresAndCapacity) {
  config.moe_router_score_function = RouterScoreFunction::kSigmoid;
  config.moe_router_topk_scaling_factor = 2.5;
  config.moe_expert_capacity_factor = 1.0;
  expect_same();
}

TEST_P(CudaMoeLayerTest, SoAreTheyWithALatentDimensionAndASharedExpert) {
  config.moe_latent_size = 6;
  config.moe_shared_expert_intermediate_size = 5;
  expect_same();
  config.moe_shared_expert_gate = true;
  expect_same();
}

TEST_P(CudaMoeLayerTest, SoAreTheyWithProbsAppliedOnTheInput) {
  config.moe_router_score_function = RouterScoreFunction::kSigmoid;
  config.moe_router_topk = 1;
  config.moe_apply_probs_on_input = true;
  expect_same();
}

TEST_P(CudaMoeLayerTest, SoAreTheyWithPaddingForQuantization) {
  config.fp8 = Fp8Format::kE4M3;
  config.moe_router_padding_for_quantization = true;
  expect_same();
}

TEST_P(CudaMoeLayerTest, SoAreTheyWithTheBackendHybridep) {
  config.moe_flex_dispatcher_backend = FlexDispatcherBackend::kHybridEp;
  expect_same();
}

TEST_P(CudaMoeLayerTest, SoAreTheyWithTheBackendNcclep) {
  config.moe_flex_dispatcher_backend = FlexDispatcherBackend::kNcclEp;
  config.moe_expert_rank_capacity_factor = 12;
  expect_same();
}

TEST_P(CudaMoeLayerTest, SinglePrecisionIsNotReduced) {
  config.params_dtype = DType::kFloat32;
  config.moe_router_dtype = DType::kFloat32;
  expect_same_as_on_the_cpu<float>(config, 1e-5, 1e-4);
}

// What stands between two products is rounded to the type of the rows, as it is not on the CPU.
template <typename T>
void expect_close_to_the_cpu(const MoeConfig& config, double tolerance) {
  const LayerBatch batch = batch_for(config);
  const Step expected = run_step(config, batch, {}, on_cpu<T>()),
             got = run_step(config, batch, {}, on_gpu<T>());
  EXPECT_LT(distance(expected.output, got.output), tolerance);
  EXPECT_LT(distance(expected.grad_hidden, got.grad_hidden), tolerance);
  for (std::size_t rank = 0; rank < expected.grads.size(); ++rank) {
    const auto &one = expected.grads[rank].experts, &other = got.grads[rank].experts;
    EXPECT_LT(distance(rows_of(one.fc1), rows_of(other.fc1)), tolerance) << "rank " << rank;
    EXPECT_LT(distance(rows_of(one.fc2), rows_of(other.fc2)), tolerance) << "rank " << rank;
  }
}

TEST_P(CudaMoeLayerTest, NarrowTypesStayCloseToTheCpu) {
  config.params_dtype = DType::kFloat32;
  config.moe_router_dtype = DType::kFloat32;
  config.moe_shared_expert_intermediate_size = 16;
  expect_close_to_the_cpu<BFloat16>(config, 0.02);
  expect_close_to_the_cpu<Float16>(config, 0.004);
}

TEST_P(CudaMoeLayerTest, ARepeatedStepHasTheSameBits) {
  config.params_dtype = DType::kFloat32;
  config.moe_router_dtype = DType::kFloat32;
  const LayerBatch batch = batch_for(config);
  const Step first = run_step(config, batch, {}, on_gpu<BFloat16>()),
             second = run_step(config, batch, {}, on_gpu<BFloat16>());
  expect_near(first, second, 0, 0);
}

// Two forwards, then their backwards: the gradient of the first's hidden.
Tensor two_microbatches(MoeLayer& layer, const Tensor& one, const Tensor& other) {
  auto first = layer.forward(one), second = layer.forward(other);
  layer.backward(std::move(second.context), {.output = one, .aux_loss = 1});
  return layer.backward(std::move(first.context), {.output = other, .aux_loss = 1}).hidden;
}

TEST_P(CudaMoeLayerTest, MicrobatchesMayBeInFlightTogetherOnAStreamOfTheProgram) {
  const LayerBatch batch = batch_for(config);
  in_process(config.num_ranks(), [&](Communicator& comm) {
    const Tensor one = batch.share(batch.hidden, comm.rank()),
                 other = batch.share(batch.grad_output, comm.rank());
    MoeLayer on_cpu(config, std::make_shared<ExpertParallelGroup>(comm), 3);
    MoeLayer on_gpu(config, std::make_shared<ExpertParallelGroup>(comm, kGpu), 3);
    const Matrix expected = rows_of(two_microbatches(on_cpu, one, other));

    cudaStream_t stream = nullptr;
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    {
      const cuda::StreamGuard guard(stream);
      const Tensor got = two_microbatches(on_gpu, cuda::to_device(one, kGpu), cuda::to_device(other, kGpu));
      EXPECT_TRUE(near(expected, cuda::to_host(got), 1e-11));
    }
    // A stream lives longer than what was made while it was current.
    comm.barrier();
  });
}

INSTANTIATE_TEST_SUITE_P(Divisions, CudaMoeLayerTest,
                         ::testing::Values(Division{1, 1, true}, Division{1, 2, true}, Division{1, 4, true},
                                           Division{2, 2, true}),
                         [](const auto& division) { return testing::name_of(division.param); });

// One rank's part of a step, on the host.
std::vector<Matrix> bits_of_step(MoeLayer& layer, const Tensor& hidden, const Tensor& grad_output) {
  auto forward = layer.forward(hidden);
  const auto grads =
      layer.backward(std::move(forward.context), {.output = grad_output, .aux_loss = kGradAuxLoss});
  std::vector<Matrix> parts;
  for (const Tensor& part : {forward.output, grads.hidden.value(), grads.parameters.router_weight.value(),
                             grads.parameters.experts.fc1.value(), grads.parameters.experts.fc2.value()})
    parts.push_back(rows_of(cuda::to_host(part)));
  return parts;
}

// Layers of new sizes, several steps each: whatever a rank uses for the first time in one of them, no other
// rank waits for it, and no row is another than in the first step.
template <typename T>
void expect_layers_to_repeat(int num_ranks, int num_layers) {
  std::mt19937 random(static_cast<unsigned>(num_ranks));
  const auto one_of = [&](std::vector<int> values) { return values[random() % values.size()]; };
  for (int i = 0; i < num_layers; ++i) {
    MoeConfig config = config_of({1, num_ranks, true});
    config.params_dtype = DType::kFloat32;
    config.moe_router_dtype = DType::kFloat32;
    config.hidden_size = one_of({16, 24, 64, 128, 256});
    config.moe_ffn_hidden_size = one_of({8, 16, 40, 128});
    std::vector<std::int64_t> num_tokens;
    for (int rank = 0; rank < num_ranks; ++rank) num_tokens.push_back(one_of({0, 1, 5, 37, 64, 100, 200}));
    const LayerBatch batch = random_batch(num_tokens, config.hidden_size);
    SCOPED_TRACE(::testing::Message() << "layer " << i << " of " << num_ranks << " ranks");
    in_process(num_ranks, [&](Communicator& comm) {
      const auto group = std::make_shared<ExpertParallelGroup>(comm, kGpu);
      MoeLayer layer(config, group, /*seed=*/3);
      const auto mine = [&](const Tensor& all) {
        return cuda::to_device(converted<T>(batch.share(all, comm.rank())), kGpu);
      };
      const Tensor hidden = mine(batch.hidden), grad_output = mine(batch.grad_output);
      const auto first = bits_of_step(layer, hidden, grad_output);
      for (int step = 1; step < 3; ++step) {
        EXPECT_EQ(first, bits_of_step(layer, hidden, grad_output)) << "rank " << comm.rank();
        group->buffer().check();
      }
    });
  }
}

TEST(CudaMoeLayersTest, HundredsOfThemRepeatTheirBitsOnRanksThatAreThreads) {
  if (const std::string reason = tool::why_no_cuda_device(); !reason.empty()) GTEST_SKIP() << reason;
  for (const int num_ranks : {2, 4}) {
    expect_layers_to_repeat<BFloat16>(num_ranks, 60);
    expect_layers_to_repeat<float>(num_ranks, 60);
  }
}

class CudaMoeLayerErrorsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = tool::why_no_cuda_device(); !reason.empty()) GTEST_SKIP() << reason;
  }

  MoeConfig config = config_of({1, 1, true});
};

TEST_F(CudaMoeLayerErrorsTest, AnOptionThatDoesNotRunOnAGpuIsNamed) {
  config.moe_permute_fusion = false;
  in_process(1, [&](Communicator& comm) {
    const auto group = std::make_shared<ExpertParallelGroup>(comm, kGpu);
    EXPECT_EQ(rejected_argument([&] { MoeLayer(config, group, 3); }), "moe_permute_fusion");
  });
}

TEST_F(CudaMoeLayerErrorsTest, RowsInAnotherMemoryAreRefusedAndTheLayerGoesOn) {
  in_process(1, [&](Communicator& comm) {
    MoeLayer layer(config, std::make_shared<ExpertParallelGroup>(comm, kGpu), 3);
    const Tensor hidden = random_tensor(5, config.hidden_size, 1);
    EXPECT_EQ(rejected_argument([&] { layer.forward(hidden); }), "hidden");
    auto forward = layer.forward(cuda::to_device(hidden, kGpu));
    EXPECT_EQ(forward.output.device(), kGpu);
    EXPECT_EQ(rejected_argument(
                  [&] { layer.backward(std::move(forward.context), {.output = hidden, .aux_loss = 1}); }),
              "output");
  });
}

}  // namespace
}  // namespace flexep::moe
