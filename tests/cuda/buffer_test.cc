// SPDX-License-Identifier: Apache-2.0
//
// ElasticBuffer on a GPU: the same answers and the same errors as on the CPU. Ranks are threads that share
// the GPU.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <string>
#include <vector>

#include "conformance/random.h"
#include "conformance/run_case.h"
#include "cuda_devices.h"
#include "flexep/cuda.h"
#include "flexep/elastic_buffer.h"
#include "flexep/error.h"
#include "support/tensors.h"

namespace flexep {
namespace {

using flexep::testing::tensor_of;
using flexep::testing::values_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kNumExperts = 6;
constexpr int kHidden = 4;
const Device kGpu = Device::cuda(0);

class CudaBufferTest : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (const std::string reason = tool::why_no_cuda_device(); !reason.empty()) GTEST_SKIP() << reason;
  }
};

TEST_P(CudaBufferTest, AgreesWithTheReferenceToTheBit) {
  constexpr int kNumCases = 40;
  std::atomic<int> num_passed{0};
  in_process(GetParam(), [&](Communicator& comm) {
    conformance::CaseRunner runner(comm, kGpu);
    for (std::uint64_t seed = 0; seed < kNumCases; ++seed) {
      const auto spec = conformance::draw_case(conformance::Random(17, seed).next(), comm.num_ranks());
      const auto finding = runner.run(spec, conformance::ExpectedResults(spec));
      EXPECT_EQ(finding.value_or(""), "") << "rank " << comm.rank() << ", " << spec.to_string();
      num_passed += !finding;
    }
  });
  EXPECT_EQ(num_passed, kNumCases * GetParam());
}

INSTANTIATE_TEST_SUITE_P(Ranks, CudaBufferTest, ::testing::Values(1, 2, 3, 4, 8));

/// Two tokens, each to the first and the last rank.
DispatchArgs good_args(int rank) {
  const auto first = static_cast<float>(10 * rank + 1);
  return {.x = cuda::to_device(tensor_of<float>({2, kHidden}, {first, 0, 0, 0, first + 1, 0, 0, 0}), kGpu),
          .topk_idx = cuda::to_device(
              tensor_of<std::int64_t>({2, 2}, {0, kNumExperts - 1, kNumExperts - 1, 0}), kGpu),
          .num_experts = kNumExperts};
}

void expect_round_trip_works(ElasticBuffer& buffer) {
  const DispatchArgs args = good_args(buffer.rank());
  const auto received = buffer.dispatch(args);
  const auto combined = buffer.combine({.x = received.x, .handle = received.handle});
  EXPECT_EQ(values_of<float>(cuda::to_host(combined.x))[0], 2 * values_of<float>(cuda::to_host(args.x))[0]);
}

class CudaErrorsTest : public CudaBufferTest {
 protected:
  static constexpr int kNumRanks = 3;

  /// What each rank's operation threw; afterwards a correct call works on every rank.
  template <typename Body>
  static std::vector<std::exception_ptr> errors_of(Body body) {
    std::vector<std::exception_ptr> errors(kNumRanks);
    in_process(kNumRanks, [&](Communicator& comm) {
      ElasticBuffer buffer(comm, {.device = kGpu});
      try {
        body(buffer);
      } catch (const Error&) {
        errors[static_cast<std::size_t>(comm.rank())] = std::current_exception();
      }
      expect_round_trip_works(buffer);
    });
    return errors;
  }

  template <typename E>
  static std::string text_of(const std::exception_ptr& error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const E& expected) {
      return expected.what();
    } catch (const std::exception& other) {
      return std::string("another error: ") + other.what();
    }
    return "no error";
  }

  static void expect_rank_1_refused(const std::vector<std::exception_ptr>& errors, const std::string& part) {
    const std::string own = text_of<InvalidArgument>(errors[1]);
    EXPECT_THAT(own, HasSubstr(part));
    for (const std::size_t rank : {0u, 2u}) EXPECT_THAT(text_of<PeerError>(errors[rank]), HasSubstr(own));
  }
};

TEST_F(CudaErrorsTest, AnIdThatIsNoExpertIsRefusedByName) {
  expect_rank_1_refused(
      errors_of([](ElasticBuffer& buffer) {
        DispatchArgs args = good_args(buffer.rank());
        if (buffer.rank() == 1)
          args.topk_idx = cuda::to_device(tensor_of<std::int64_t>({2, 2}, {0, 5, 1, 6}), kGpu);
        buffer.dispatch(args);
      }),
      "topk_idx on rank 1: token 1, column 1 is 6, outside [-1, 6)");
}

TEST_F(CudaErrorsTest, ADuplicateIdIsRefusedByName) {
  expect_rank_1_refused(
      errors_of([](ElasticBuffer& buffer) {
        DispatchArgs args = good_args(buffer.rank());
        if (buffer.rank() == 1)
          args.topk_idx = cuda::to_device(tensor_of<std::int64_t>({2, 2}, {-1, -1, 4, 4}), kGpu);
        buffer.dispatch(args);
      }),
      "topk_idx on rank 1: token 1 names expert 4 twice, in columns 0 and 1");
}

TEST_F(CudaErrorsTest, TensorsOfTheHostAreRefused) {
  expect_rank_1_refused(errors_of([](ElasticBuffer& buffer) {
                          DispatchArgs args = good_args(buffer.rank());
                          if (buffer.rank() == 1) args.x = Tensor::zeros({2, kHidden}, DType::kFloat32);
                          buffer.dispatch(args);
                        }),
                        "x on rank 1 is in memory of host");
}

TEST_F(CudaErrorsTest, MoreMultiprocessorsThanARanksShareAreRefused) {
  expect_rank_1_refused(errors_of([](ElasticBuffer& buffer) {
                          DispatchArgs args = good_args(buffer.rank());
                          if (buffer.rank() == 1) args.num_sms = 1000;
                          buffer.dispatch(args);
                        }),
                        "num_sms on rank 1 is 1000");
}

TEST_F(CudaErrorsTest, HiddenThatDiffersIsAMismatchOnAllRanks) {
  const auto errors = errors_of([](ElasticBuffer& buffer) {
    DispatchArgs args = good_args(buffer.rank());
    if (buffer.rank() == 1) args.x = cuda::to_device(Tensor::zeros({2, 2 * kHidden}, DType::kFloat32), kGpu);
    buffer.dispatch(args);
  });
  for (const auto& error : errors)
    EXPECT_EQ(text_of<CollectiveMismatch>(error), "dispatch: ranks disagree on hidden: 4, 8, 4 (by rank)");
}

TEST_F(CudaErrorsTest, ACombineThatARankRefusesIsHeardFromCheck) {
  const auto errors = errors_of([](ElasticBuffer& buffer) {
    const auto received = buffer.dispatch(good_args(buffer.rank()));
    const Tensor wrong = cuda::to_device(Tensor::zeros({1, 3}, DType::kFloat32), kGpu);
    buffer.combine({.x = buffer.rank() == 1 ? wrong : received.x, .handle = received.handle});
    buffer.check();
  });
  expect_rank_1_refused(errors, "x on rank 1 has rows of 12 bytes");
}

TEST_F(CudaErrorsTest, ARankThatNeverComesIsNamedWithinTheDeadline) {
  std::vector<std::exception_ptr> errors(2);
  std::latch rank_0_has_given_up(1);
  in_process(2,
             [&](Communicator& comm) {
               ElasticBuffer buffer(comm, {.device = kGpu});
               if (comm.rank() == 0) {
                 try {
                   buffer.dispatch(good_args(0));
                 } catch (const Error&) {
                   errors[0] = std::current_exception();
                 }
                 EXPECT_THROW(buffer.dispatch(good_args(0)), TransportError);
                 rank_0_has_given_up.count_down();
               }
               rank_0_has_given_up.wait();
             },
             {.timeout = std::chrono::milliseconds(500)});
  try {
    ASSERT_TRUE(errors[0]);
    std::rethrow_exception(errors[0]);
  } catch (const TimeoutError& error) {
    EXPECT_THAT(error.missing_ranks(), ElementsAre(1));
    EXPECT_EQ(error.operation(), "dispatch");
  }
  // The GPU works for the next buffer.
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm, {.device = kGpu});
    expect_round_trip_works(buffer);
  });
}

TEST_F(CudaErrorsTest, ADeviceThatIsNotThereIsNamed) {
  EXPECT_THROW(ElasticBuffer(Communicator::self(), {.device = Device::cuda(1000)}), InvalidArgument);
}

/// Live outputs and handles of many layers on two buffers, and what they hold afterwards.
TEST_F(CudaBufferTest, ManyLayersStayAliveOnTwoBuffers) {
  constexpr int kNumLayers = 58;
  in_process(2, [](Communicator& comm) {
    ElasticBuffer first(comm, {.device = kGpu}), second(comm, {.device = kGpu});
    std::vector<DispatchResult> received;
    for (int layer = 0; layer < kNumLayers; ++layer) {
      ElasticBuffer& buffer = layer % 2 == 0 ? first : second;
      DispatchArgs args = good_args(100 * layer + comm.rank());
      args.async_with_compute_stream = true;
      received.push_back(buffer.dispatch(args));
    }
    for (int layer = kNumLayers - 1; layer >= 0; --layer) {
      ElasticBuffer& buffer = layer % 2 == 0 ? first : second;
      const auto& result = received[static_cast<std::size_t>(layer)];
      cuda::wait(result.event);
      const auto combined = buffer.combine({.x = result.x, .handle = result.handle});
      const float expected = 2 * static_cast<float>(10 * (100 * layer + comm.rank()) + 1);
      EXPECT_EQ(values_of<float>(cuda::to_host(combined.x))[0], expected);
    }
  });
}

}  // namespace
}  // namespace flexep
