// SPDX-License-Identifier: Apache-2.0
//
// What goes wrong on a GPU is the same error as on the CPU, on every rank; the process and the GPU go on.
// Ranks are threads that take turns with the GPUs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <latch>
#include <limits>
#include <string>
#include <vector>

#include "cuda/small_round_trip.h"
#include "flexep/cuda.h"
#include "flexep/elastic_buffer.h"
#include "flexep/error.h"
#include "support/tensors.h"

namespace flexep {
namespace {

using namespace flexep::testing;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

ElasticBufferConfig on_this_gpu(ElasticBufferConfig config) {
  config.device = this_gpu();
  return config;
}

class CudaErrorsTest : public CudaTest {
 protected:
  static constexpr int kNumRanks = 3;

  /// What each rank's operation threw; afterwards a correct call works on every rank.
  template <typename Body>
  static std::vector<std::exception_ptr> errors_of(Body body, const ElasticBufferConfig& config = {}) {
    std::vector<std::exception_ptr> errors(kNumRanks);
    on_gpus(kNumRanks, [&](Communicator& comm) {
      ElasticBuffer buffer(comm, on_this_gpu(config));
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
          args.topk_idx = cuda::to_device(tensor_of<std::int64_t>({2, 2}, {0, 5, 1, 6}), this_gpu());
        buffer.dispatch(args);
      }),
      "topk_idx on rank 1: token 1, column 1 is 6, outside [-1, 6)");
}

TEST_F(CudaErrorsTest, ADuplicateIdIsRefusedByName) {
  expect_rank_1_refused(
      errors_of([](ElasticBuffer& buffer) {
        DispatchArgs args = good_args(buffer.rank());
        if (buffer.rank() == 1)
          args.topk_idx = cuda::to_device(tensor_of<std::int64_t>({2, 2}, {-1, -1, 4, 4}), this_gpu());
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

TEST_F(CudaErrorsTest, TheCommunicationStreamAsCurrentOneIsRefused) {
  expect_rank_1_refused(errors_of([](ElasticBuffer& buffer) {
                          const DispatchArgs args = good_args(buffer.rank());
                          const cuda::StreamGuard guard(buffer.rank() == 1
                                                            ? cuda::communication_stream(this_gpu())
                                                            : cuda::current_stream());
                          buffer.dispatch(args);
                        }),
                        "the current stream of rank 1 is its communication stream");
}

TEST_F(CudaErrorsTest, HiddenThatDiffersIsAMismatchOnAllRanks) {
  const auto errors = errors_of([](ElasticBuffer& buffer) {
    DispatchArgs args = good_args(buffer.rank());
    if (buffer.rank() == 1)
      args.x = cuda::to_device(Tensor::zeros({2, 2 * kHidden}, DType::kFloat32), this_gpu());
    buffer.dispatch(args);
  });
  for (const auto& error : errors)
    EXPECT_EQ(text_of<CollectiveMismatch>(error), "dispatch: ranks disagree on hidden: 4, 8, 4 (by rank)");
}

TEST_F(CudaErrorsTest, ACombineThatARankRefusesIsHeardFromCheck) {
  const auto errors = errors_of([](ElasticBuffer& buffer) {
    const auto received = buffer.dispatch(good_args(buffer.rank()));
    const Tensor wrong = cuda::to_device(Tensor::zeros({1, 3}, DType::kFloat32), this_gpu());
    buffer.combine({.x = buffer.rank() == 1 ? wrong : received.x, .handle = received.handle});
    buffer.check();
  });
  expect_rank_1_refused(errors, "x on rank 1 has rows of 12 bytes");
}

TEST_F(CudaErrorsTest, ARankThatNeverComesIsNamedWithinTheDeadline) {
  std::vector<std::exception_ptr> errors(2);
  std::latch rank_0_has_given_up(1);
  on_gpus(2,
          [&](Communicator& comm) {
            ElasticBuffer buffer(comm, {.device = this_gpu()});
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
  on_gpus(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm, {.device = this_gpu()});
    expect_round_trip_works(buffer);
  });
}

/// What each rank's check() throws after `body`, an operation that throws nothing by itself; afterwards a
/// correct call works.
template <typename Body>
std::vector<std::string> texts_of_check(const ElasticBufferConfig& config, Body body) {
  std::vector<std::string> texts(3);
  on_gpus(3, [&](Communicator& comm) {
    ElasticBuffer buffer(comm, on_this_gpu(config));
    body(buffer);
    try {
      buffer.check();
    } catch (const InvalidArgument& error) {
      texts[static_cast<std::size_t>(comm.rank())] = std::string("own: ") + error.what();
    } catch (const PeerError& error) {
      texts[static_cast<std::size_t>(comm.rank())] = std::string("peer: ") + error.what();
    }
    expect_round_trip_works(buffer);
  });
  return texts;
}

void expect_heard_of_rank_1(const std::vector<std::string>& texts, const std::string& part) {
  EXPECT_THAT(texts[1], AllOf(HasSubstr("own: "), HasSubstr(part)));
  for (const std::size_t rank : {0u, 2u})
    EXPECT_THAT(texts[rank], AllOf(HasSubstr("peer: "), HasSubstr(part)));
}

TEST_F(CudaErrorsTest, MoreTokensThanWereAgreedAreRefusedByName) {
  expect_rank_1_refused(errors_of([](ElasticBuffer& buffer) {
                          DispatchArgs args = good_args(buffer.rank());
                          args.num_max_tokens_per_rank = buffer.rank() == 1 ? 1 : 2;
                          buffer.dispatch(args);
                        }),
                        "rank 1");
}

TEST_F(CudaErrorsTest, WithoutHostSyncCheckTellsOfAnIdThatIsNoExpert) {
  const auto texts = texts_of_check({.num_max_tokens_per_rank = 2}, [](ElasticBuffer& buffer) {
    DispatchArgs args = good_args(buffer.rank());
    args.do_cpu_sync = false;
    if (buffer.rank() == 1)
      args.topk_idx = cuda::to_device(tensor_of<std::int64_t>({2, 2}, {0, 5, 1, 6}), this_gpu());
    const auto received = buffer.dispatch(args);
    // Refused like the dispatch, on all ranks, and heard of no more than that.
    EXPECT_NO_THROW(buffer.combine({.x = received.x, .handle = received.handle}));
  });
  expect_heard_of_rank_1(texts, "topk_idx on rank 1: token 1, column 1 is 6, outside [-1, 6)");
}

TEST_F(CudaErrorsTest, ACachedDispatchInBetweenDoesNotMakeAnErrorForgotten) {
  const auto texts = texts_of_check({.num_max_tokens_per_rank = 2}, [](ElasticBuffer& buffer) {
    DispatchArgs args = good_args(buffer.rank());
    const auto good = buffer.dispatch(args);
    args.do_cpu_sync = false;
    if (buffer.rank() == 1)
      args.topk_idx = cuda::to_device(tensor_of<std::int64_t>({2, 2}, {0, 5, 1, 6}), this_gpu());
    buffer.dispatch(args);
    cuda::capture().wait();  // the operation that failed is over when the next one begins
    buffer.dispatch({.x = args.x, .handle = good.handle});
  });
  expect_heard_of_rank_1(texts, "topk_idx on rank 1: token 1, column 1 is 6, outside [-1, 6)");
}

TEST_F(CudaErrorsTest, WithoutHostSyncMoreTokensThanWereAgreedAreRefusedByName) {
  const auto errors = errors_of(
      [](ElasticBuffer& buffer) {
        DispatchArgs args = good_args(buffer.rank());
        args.do_cpu_sync = false;
        if (buffer.rank() == 1) {
          args.x = cuda::to_device(Tensor::zeros({3, kHidden}, DType::kFloat32), this_gpu());
          args.topk_idx = cuda::to_device(Tensor::zeros({3, 1}, DType::kInt64), this_gpu());
        } else {
          args.topk_idx = cuda::to_device(Tensor::zeros({2, 1}, DType::kInt64), this_gpu());
        }
        buffer.dispatch(args);
        buffer.check();
      },
      {.num_max_tokens_per_rank = 2});
  expect_rank_1_refused(errors, "3");
}

TEST_F(CudaErrorsTest, ARankThatDoesNotComeToACombineIsNamedByItsEvent) {
  std::latch rank_0_has_given_up(1);
  on_gpus(2,
          [&](Communicator& comm) {
            ElasticBuffer buffer(comm, {.device = this_gpu()});
            const auto received = buffer.dispatch(good_args(comm.rank()));
            if (comm.rank() == 0) {
              const auto combined = buffer.combine(
                  {.x = received.x, .handle = received.handle, .async_with_compute_stream = true});
              try {
                combined.event.wait();
                ADD_FAILURE() << "rank 1 has not come";
              } catch (const TimeoutError& error) {
                EXPECT_THAT(error.missing_ranks(), ElementsAre(1));
                EXPECT_EQ(error.operation(), "combine");
              }
              rank_0_has_given_up.count_down();
            }
            rank_0_has_given_up.wait();
          },
          {.timeout = std::chrono::seconds(2)});
  on_gpus(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm, {.device = this_gpu()});
    expect_round_trip_works(buffer);
  });
}

TEST_F(CudaErrorsTest, WeightsAreInspectedOnlyOnRequest) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const auto weights = [](const std::vector<float>& values) {
    return cuda::to_device(tensor_of<float>({2, 2}, values), this_gpu());
  };
  expect_rank_1_refused(errors_of([&](ElasticBuffer& buffer) {
                          DispatchArgs args = good_args(buffer.rank());
                          args.topk_weights = weights({1, 2, 3, 4});
                          args.check_weights = true;
                          buffer.dispatch(args);
                          if (buffer.rank() == 1)
                            args.topk_weights = weights({0.5, -kInfinity, 1, kInfinity});
                          args.check_weights = false;
                          buffer.dispatch(args);
                          args.check_weights = true;
                          buffer.dispatch(args);
                        }),
                        "topk_weights on rank 1: token 0, column 1 is -inf");
}

TEST_F(CudaErrorsTest, WeightsOfACachedDispatchAreInspectedOnRequest) {
  expect_rank_1_refused(errors_of([&](ElasticBuffer& buffer) {
                          const DispatchArgs args = good_args(buffer.rank());
                          const auto recv = buffer.dispatch(args);
                          const float last = buffer.rank() == 1 ? std::numeric_limits<float>::quiet_NaN() : 1;
                          buffer.dispatch({.x = args.x,
                                           .topk_weights = cuda::to_device(
                                               tensor_of<float>({2, 2}, {1, 1, last, 1}), this_gpu()),
                                           .handle = recv.handle,
                                           .check_weights = true});
                          buffer.check();
                        }),
                        "topk_weights on rank 1: token 1, column 0 is nan");
}

TEST_F(CudaErrorsTest, WeightsOfPairsThatGoNowhereAreNotInspected) {
  const auto errors = errors_of([](ElasticBuffer& buffer) {
    DispatchArgs args = good_args(buffer.rank());
    args.topk_idx = cuda::to_device(tensor_of<std::int64_t>({2, 2}, {0, 1, 2, -1}), this_gpu());
    constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
    args.topk_weights = cuda::to_device(tensor_of<double>({2, 2}, {1, 1, 1, kNaN}), this_gpu());
    args.check_weights = true;
    buffer.dispatch(args);
  });
  for (const auto& error : errors) EXPECT_EQ(text_of<Error>(error), "no error");
}

TEST_F(CudaErrorsTest, ADeviceThatIsNotThereIsNamed) {
  EXPECT_THROW(ElasticBuffer(Communicator::self(), {.device = Device::cuda(1000)}), InvalidArgument);
}

}  // namespace
}  // namespace flexep
