// SPDX-License-Identifier: Apache-2.0
//
// What a program written for DeepEP's ElasticBuffer may pass and call besides dispatch and combine.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <limits>
#include <string>
#include <thread>

#include "flexep/flexep.h"
#include "support/tensors.h"

namespace flexep {
namespace {

using testing::tensor_of;
using testing::values_of;
using namespace std::chrono_literals;

DispatchArgs good_args() {
  return {.x = Tensor::zeros({2, 8}, DType::kFloat32),
          .topk_idx = tensor_of<std::int64_t>({2, 2}, {0, 3, 2, -1}),
          .topk_weights = tensor_of<float>({2, 2}, {0.5, 0.25, 1, 0}),
          .num_experts = 4};
}

void expect_refused(const std::function<void()>& call, const std::string& argument, const std::string& part) {
  try {
    call();
    ADD_FAILURE() << "no error about " << argument;
  } catch (const InvalidArgument& error) {
    EXPECT_EQ(error.argument(), argument);
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

void expect_config_refused(const ElasticBufferConfig& config, const std::string& argument) {
  expect_refused([&] { ElasticBuffer buffer(Communicator::self(), config); }, argument, "rank 0");
}

TEST(BufferOptionsTest, OperationsUseNoMoreQueuePairsThanAreAllocated) {
  const auto buffer_with = [](const NetworkOptions& network) {
    return ElasticBuffer(Communicator::self(), {.network = network});
  };
  const auto dispatch = [](ElasticBuffer& buffer, int num_qps) {
    DispatchArgs args = good_args();
    args.num_qps = num_qps;
    return buffer.dispatch(args);
  };
  ElasticBuffer by_default = buffer_with({});
  const auto recv = dispatch(by_default, 129);
  expect_refused([&] { dispatch(by_default, 130); }, "num_qps", "130");
  expect_refused([&] { by_default.combine({.x = recv.x, .handle = recv.handle, .num_qps = -1}); }, "num_qps",
                 "-1");
  ElasticBuffer direct = buffer_with({.allow_hybrid_mode = false});
  dispatch(direct, 17);
  expect_refused([&] { dispatch(direct, 18); }, "num_qps", "17");
  ElasticBuffer explicitly = buffer_with({.num_allocated_qps = 5});
  dispatch(explicitly, 5);
  expect_refused([&] { dispatch(explicitly, 6); }, "num_qps", "5");
  expect_config_refused({.network = {.num_allocated_qps = -1}}, "num_allocated_qps");
}

TEST(BufferOptionsTest, BytesAreCheckedAndRepeated) {
  constexpr std::int64_t kUnit = 2 << 20;
  ElasticBuffer buffer(Communicator::self(), {.num_bytes = 4 * kUnit, .num_cpu_bytes = kUnit});
  EXPECT_EQ(buffer.num_bytes(), 4 * kUnit);
  expect_config_refused({.num_bytes = 0}, "num_bytes");
  expect_config_refused({.num_bytes = -kUnit}, "num_bytes");
  expect_config_refused({.num_bytes = kUnit + 1}, "num_bytes");
  expect_config_refused({.num_bytes = kUnit, .num_cpu_bytes = 2 * kUnit}, "num_cpu_bytes");
  expect_config_refused({.num_bytes = kUnit, .num_cpu_bytes = kUnit / 2}, "num_cpu_bytes");
  expect_config_refused({.num_cpu_bytes = kUnit}, "num_cpu_bytes");

  const ElasticBufferConfig sized{.num_max_tokens_per_rank = 4096, .hidden = 7168, .num_topk = 8};
  ElasticBufferConfig fp8 = sized;
  fp8.use_fp8_dispatch = true;
  // With one rank combine needs more than dispatch in either format.
  EXPECT_GE(ElasticBuffer(Communicator::self(), sized).num_bytes(),
            ElasticBuffer(Communicator::self(), fp8).num_bytes());
}

TEST(BufferOptionsTest, RanksAgreeOnWhatIsAskedOfThem) {
  in_process(3, [](Communicator& comm) {
    ElasticBuffer buffer(comm, {.num_max_tokens_per_rank = 10 * comm.rank(), .deterministic = true});
    EXPECT_EQ(buffer.num_max_tokens_per_rank(), 20);
    EXPECT_EQ(buffer.get_physical_domain_size().num_scaleup_ranks, 3);
    EXPECT_EQ(buffer.get_logical_domain_size().num_scaleout_ranks, 1);
  });
}

TEST(BufferOptionsTest, BarrierWaitsForAllRanksAndForWhatIsInFlight) {
  std::atomic<int> num_arrived{0};
  in_process(3, [&](Communicator& comm) {
    ElasticBuffer buffer(comm);
    DispatchArgs args = good_args();
    args.num_experts = 6;
    args.async_with_compute_stream = true;
    const auto recv = buffer.dispatch(args);
    if (comm.rank() == 1) std::this_thread::sleep_for(30ms);
    ++num_arrived;
    buffer.barrier();
    EXPECT_EQ(num_arrived, 3);
    EXPECT_TRUE(recv.event.is_done());
  });
}

TEST(BufferOptionsTest, DestroyedBufferRefusesCallsAndItsTensorsStay) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm, {.explicitly_destroy = true});
    DispatchArgs args = good_args();
    std::ranges::fill(args.x.values<float>(), 3.0F);
    const auto recv = buffer.dispatch(args);
    buffer.destroy();
    EXPECT_EQ(recv.x.values<float>()[0], 3.0F);
    EXPECT_GT(recv.handle.num_recv_tokens(), 0);
    expect_refused([&] { buffer.dispatch(args); }, "buffer", "destroyed");
    expect_refused([&] { buffer.destroy(); }, "buffer", "destroyed");
    ElasticBuffer implicit(comm);
    expect_refused([&] { implicit.destroy(); }, "explicitly_destroy", "destructor");
    implicit.dispatch(args);
  });
}

TEST(BufferOptionsTest, WeightsAreInspectedOnlyOnRequest) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  in_process(2, [&](Communicator& comm) {
    ElasticBuffer buffer(comm);
    DispatchArgs args = good_args();
    args.check_weights = true;
    const auto recv = buffer.dispatch(args);
    if (comm.rank() == 1) args.topk_weights = tensor_of<float>({2, 2}, {0.5, -kInfinity, 1, kInfinity});
    const auto expect_refusals = [&] {
      if (comm.rank() == 1) {
        expect_refused([&] { buffer.dispatch(args); }, "topk_weights", "rank 1: token 0, column 1 is -inf");
      } else {
        EXPECT_THROW(buffer.dispatch(args), PeerError);
      }
    };
    expect_refusals();
    args.check_weights = false;
    buffer.dispatch(args);

    args = {.x = args.x, .topk_weights = args.topk_weights, .handle = recv.handle, .check_weights = true};
    expect_refusals();
    // What goes nowhere is not looked at.
    if (comm.rank() == 1) args.topk_weights = tensor_of<float>({2, 2}, {0, 0, 0, kInfinity});
    buffer.dispatch(args);
  });
}

TEST(BufferOptionsTest, OpaqueSlotsAreThoseOfTheHandle) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const DispatchArgs args = good_args();
    const auto recv = buffer.dispatch(args);
    const Tensor slots = recv.handle.dst_buffer_slot_idx();
    EXPECT_EQ(slots.shape(), (Shape{2, 2}));
    EXPECT_EQ(slots.data<std::int32_t>()[3], -1);
    const auto cached = buffer.dispatch({.x = args.x, .handle = recv.handle});
    EXPECT_EQ(values_of<std::int32_t>(cached.handle.dst_buffer_slot_idx()), values_of<std::int32_t>(slots));
  });
}

}  // namespace
}  // namespace flexep
