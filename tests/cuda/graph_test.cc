// SPDX-License-Identifier: Apache-2.0
//
// Operations captured into CUDA graphs: every replay is an operation of its own, with what lies in the inputs
// then. Ranks are threads that take turns with the GPUs.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <latch>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "captured_graph.h"
#include "cuda_devices.h"
#include "device_memory.h"
#include "flexep/cuda.h"
#include "flexep/elastic_buffer.h"
#include "flexep/error.h"
#include "gpus.h"

namespace flexep {
namespace {

using flexep::testing::CapturedGraph;
using flexep::testing::on_gpus;
using flexep::testing::PinnedTensor;
using flexep::testing::require;
using flexep::testing::TestStream;
using flexep::testing::this_gpu;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kHidden = 64;
constexpr int kNumTopk = 3;
constexpr int kNumExperts = 24;
constexpr int kMaxTokens = 40;

class CudaGraphTest : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (const std::string reason = tool::why_no_cuda_device(); !reason.empty()) GTEST_SKIP() << reason;
  }
};

/// What a rank sends in one replay: a pure function of the two, so that each rank knows what others send.
struct Step {
  Step(int replay, int rank) {
    std::mt19937 random(static_cast<unsigned>(1000 * replay + rank));
    num_tokens = static_cast<int>(random() % (kMaxTokens + 1));
    if (random() % 8 == 0) num_tokens = 0;
    std::vector<std::int64_t> experts(kNumExperts);
    std::iota(experts.begin(), experts.end(), 0);
    for (int token = 0; token < kMaxTokens; ++token) {
      std::shuffle(experts.begin(), experts.end(), random);
      for (int column = 0; column < kNumTopk; ++column)
        topk_idx.push_back(random() % 5 == 0 ? -1 : experts[static_cast<std::size_t>(column)]);
    }
    first_value = static_cast<float>(random() % 4096);
    lateness_us = random() % 16 == 0 ? static_cast<int>(random() % 500) : 0;
  }

  float value(int token, int column) const {
    return first_value + static_cast<float>(4 * token + column % 4);
  }
  float weight(int token, int k) const { return first_value + static_cast<float>(token * kNumTopk + k); }
  std::int64_t id(int token, int k) const { return topk_idx[static_cast<std::size_t>(token * kNumTopk + k)]; }
  /// Ranks of `num_ranks` to which the token goes.
  std::vector<bool> destinations(int token, int num_ranks) const {
    std::vector<bool> goes(static_cast<std::size_t>(num_ranks));
    for (int k = 0; k < kNumTopk; ++k) {
      if (id(token, k) >= 0) goes[static_cast<std::size_t>(id(token, k) / (kNumExperts / num_ranks))] = true;
    }
    return goes;
  }

  int num_tokens = 0;
  std::vector<std::int64_t> topk_idx;
  float first_value = 0;
  int lateness_us = 0;
};

/// One rank: inputs at fixed places, and the graph of a dispatch, a cached dispatch and a combine.
class Rank {
 public:
  explicit Rank(Communicator& comm)
      : comm_(comm),
        buffer_(comm, {.device = this_gpu(), .num_max_tokens_per_rank = kMaxTokens}),
        guard_(stream_.get()),
        x_({kMaxTokens, kHidden}, DType::kFloat32),
        topk_idx_({kMaxTokens, kNumTopk}, DType::kInt64),
        topk_weights_({kMaxTokens, kNumTopk}, DType::kFloat32),
        num_tokens_({1}, DType::kInt32),
        recv_x_({num_rows(), kHidden}, DType::kFloat32),
        cached_x_({num_rows(), kHidden}, DType::kFloat32),
        recv_idx_({num_rows(), kNumTopk}, DType::kInt64),
        combined_x_({kMaxTokens, kHidden}, DType::kFloat32),
        combined_weights_({kMaxTokens, kNumTopk}, DType::kFloat32) {
    graph_.emplace(stream_.get(), [&] { capture(); });
    // The first launch may wait for what runs: nobody runs before all are ready.
    comm.barrier();
  }

  int num_rows() const { return kMaxTokens * buffer_.num_ranks(); }
  ElasticBuffer& buffer() { return buffer_; }

  void replay(const Step& step) {
    x_.fill<float>([&](int row, int column) { return step.value(row, column); });
    topk_idx_.fill<std::int64_t>([&](int row, int k) { return step.id(row, k); });
    topk_weights_.fill<float>([&](int row, int k) { return step.weight(row, k); });
    num_tokens_.fill<std::int32_t>([&](int, int) { return step.num_tokens; });
    for (PinnedTensor* input : {&x_, &topk_idx_, &topk_weights_, &num_tokens_}) input->upload(stream_.get());
    for (PinnedTensor* output : outputs()) output->poison(stream_.get());
    std::this_thread::sleep_for(std::chrono::microseconds(step.lateness_us));
    graph_->launch();
    for (PinnedTensor* output : outputs()) output->download(stream_.get());
    require(cudaStreamSynchronize(stream_.get()), "replay a graph");
  }

  /// The first thing in which the outputs differ from what the ranks have sent; empty when there is none.
  std::string first_error(int replay) const {
    if (const std::string error = first_error_in_rows(replay); !error.empty()) return error;
    return first_error_in_sums(Step(replay, buffer_.rank()));
  }
  bool is_untouched() const { return recv_x_.is_poisoned() && combined_x_.is_poisoned(); }

 private:
  std::vector<PinnedTensor*> outputs() {
    return {&recv_x_, &cached_x_, &recv_idx_, &combined_x_, &combined_weights_};
  }

  void capture() {
    DispatchResult received = buffer_.dispatch({.x = x_.on_device(),
                                                .topk_idx = topk_idx_.on_device(),
                                                .topk_weights = topk_weights_.on_device(),
                                                .num_experts = kNumExperts,
                                                .do_cpu_sync = false,
                                                .num_tokens = num_tokens_.on_device(),
                                                .async_with_compute_stream = true});
    const DispatchResult cached = buffer_.dispatch({.x = x_.on_device(), .handle = received.handle});
    cuda::wait(received.event);
    const CombineResult combined =
        buffer_.combine({.x = received.x, .handle = received.handle, .topk_weights = received.topk_weights});
    recv_x_.lies_at(received.x);
    cached_x_.lies_at(cached.x);
    recv_idx_.lies_at(received.topk_idx);
    combined_x_.lies_at(combined.x);
    combined_weights_.lies_at(combined.topk_weights);
    // The results go: the graph keeps their memory.
  }

  std::string first_error_in_rows(int replay) const {
    const int num_local = kNumExperts / buffer_.num_ranks();
    int row = 0;
    for (int source = 0; source < buffer_.num_ranks(); ++source) {
      const Step sent(replay, source);
      for (int token = 0; token < sent.num_tokens; ++token) {
        if (!sent.destinations(token, buffer_.num_ranks())[static_cast<std::size_t>(buffer_.rank())])
          continue;
        const std::string place = fmt::format("row {} (rank {}, token {})", row, source, token);
        for (int column = 0; column < kHidden; ++column) {
          const float expected = sent.value(token, column);
          const float got = recv_x_.at<float>(row, column), repeated = cached_x_.at<float>(row, column);
          if (got != expected || repeated != expected)
            return fmt::format("{}, column {}: expected {}, got {} and {}", place, column, expected, got,
                               repeated);
        }
        for (int k = 0; k < kNumTopk; ++k) {
          const std::int64_t id = sent.id(token, k);
          const bool is_local = id >= 0 && id / num_local == buffer_.rank();
          if (recv_idx_.at<std::int64_t>(row, k) != (is_local ? id % num_local : -1))
            return fmt::format("{}: id {} is {}", place, k, recv_idx_.at<std::int64_t>(row, k));
        }
        ++row;
      }
    }
    return {};
  }

  std::string first_error_in_sums(const Step& sent) const {
    for (int token = 0; token < sent.num_tokens; ++token) {
      const auto goes = sent.destinations(token, buffer_.num_ranks());
      const auto num_copies = static_cast<float>(std::ranges::count(goes, true));
      for (int column = 0; column < kHidden; ++column) {
        const float expected = num_copies * sent.value(token, column);
        const float got = combined_x_.at<float>(token, column);
        if (got != expected)
          return fmt::format("token {}, column {}: expected {}, got {}", token, column, expected, got);
      }
      for (int k = 0; k < kNumTopk; ++k) {
        const float expected = sent.id(token, k) < 0 ? 0 : sent.weight(token, k);
        if (combined_weights_.at<float>(token, k) != expected)
          return fmt::format("token {}: weight {} is {}", token, k, combined_weights_.at<float>(token, k));
      }
    }
    return {};
  }

  Communicator& comm_;
  TestStream stream_;
  ElasticBuffer buffer_;
  cuda::StreamGuard guard_;
  PinnedTensor x_, topk_idx_, topk_weights_, num_tokens_;
  PinnedTensor recv_x_, cached_x_, recv_idx_, combined_x_, combined_weights_;
  std::optional<CapturedGraph> graph_;
};

TEST_P(CudaGraphTest, EveryReplayIsAnOperationOfItsOwn) {
  constexpr int kNumReplays = 1000;
  on_gpus(GetParam(), [&](Communicator& comm) {
    Rank rank(comm);
    for (int replay = 0; replay < kNumReplays; ++replay) {
      rank.replay(Step(replay, comm.rank()));
      const std::string error = rank.first_error(replay);
      ASSERT_EQ(error, "") << "rank " << comm.rank() << ", replay " << replay;
    }
    rank.buffer().check();
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, CudaGraphTest, ::testing::Values(1, 2, 4, 8));

std::string text_of_check(ElasticBuffer& buffer) {
  try {
    buffer.check();
  } catch (const InvalidArgument& error) {
    return std::string("InvalidArgument: ") + error.what();
  } catch (const PeerError& error) {
    return std::string("PeerError: ") + error.what();
  }
  return "no error";
}

TEST_F(CudaGraphTest, AReplayWithABadIdMovesNothingAndIsToldByCheck) {
  on_gpus(3, [](Communicator& comm) {
    Rank rank(comm);
    for (int replay = 0; replay < 6; ++replay) {
      Step step(replay, comm.rank());
      if (replay % 2 == 1 && comm.rank() == 1) {
        step.num_tokens = 5;
        step.topk_idx[2 * kNumTopk + 1] = kNumExperts + replay;
      }
      rank.replay(step);
      if (replay % 2 == 0) {
        EXPECT_EQ(rank.first_error(replay), "");
        EXPECT_EQ(text_of_check(rank.buffer()), "no error");
        continue;
      }
      EXPECT_TRUE(rank.is_untouched());
      const std::string reason =
          fmt::format("topk_idx on rank 1: token 2, column 1 is {}, outside [-1, 24)", kNumExperts + replay);
      EXPECT_THAT(
          text_of_check(rank.buffer()),
          HasSubstr((comm.rank() == 1 ? "InvalidArgument: " : "PeerError: dispatch: rank 1 refused: ") +
                    reason));
      EXPECT_EQ(text_of_check(rank.buffer()), "no error");
    }
  });
}

TEST_F(CudaGraphTest, MoreTokensThanTheTensorsHoldAreAnErrorOfTheReplay) {
  on_gpus(2, [](Communicator& comm) {
    Rank rank(comm);
    for (const int num_tokens : {kMaxTokens + 1, -1, kMaxTokens}) {
      Step step(0, comm.rank());
      if (comm.rank() == 0) step.num_tokens = num_tokens;
      rank.replay(step);
      const std::string expected =
          num_tokens == kMaxTokens ? "no error" : fmt::format("rank 0 has {} tokens", num_tokens);
      EXPECT_THAT(text_of_check(rank.buffer()), HasSubstr(expected));
    }
  });
}

TEST_F(CudaGraphTest, ARankThatDoesNotReplayIsNamedByCheck) {
  std::latch rank_0_has_given_up(1);
  on_gpus(2,
          [&](Communicator& comm) {
            Rank rank(comm);
            if (comm.rank() == 0) {
              rank.replay(Step(0, 0));
              try {
                rank.buffer().check();
                ADD_FAILURE() << "rank 1 has not come";
              } catch (const TimeoutError& error) {
                EXPECT_THAT(error.missing_ranks(), ElementsAre(1));
                EXPECT_EQ(error.operation(), "dispatch");
              }
              rank.replay(Step(1, 0));
              EXPECT_THROW(rank.buffer().check(), TransportError);
              rank_0_has_given_up.count_down();
            }
            rank_0_has_given_up.wait();
          },
          {.timeout = std::chrono::seconds(2)});
  // The GPU works for the next buffer.
  on_gpus(2, [](Communicator& comm) {
    Rank rank(comm);
    rank.replay(Step(0, comm.rank()));
    EXPECT_EQ(rank.first_error(0), "");
  });
}

TEST_F(CudaGraphTest, EagerOperationsBetweenReplaysDisturbNobody) {
  on_gpus(2, [](Communicator& comm) {
    TestStream stream;  // outlives the buffer, whose operations may still hold what was made on it
    Rank rank(comm);
    comm.barrier();
    for (int replay = 0; replay < 20; ++replay) {
      // What an eager dispatch takes from the arena is not the graph's.
      const cuda::StreamGuard guard(stream.get());
      const Tensor ids = cuda::to_device(Tensor::zeros({kMaxTokens, 1}, DType::kInt64), this_gpu());
      const Tensor rows = cuda::empty({kMaxTokens, kHidden}, DType::kFloat32, this_gpu());
      require(cudaMemsetAsync(rows.data(), replay + 1, rows.num_bytes(), stream.get()), "fill");
      const auto received = rank.buffer().dispatch({.x = rows, .topk_idx = ids, .num_experts = kNumExperts});
      const Tensor before = cuda::to_host(received.x);
      rank.replay(Step(replay, comm.rank()));
      EXPECT_EQ(rank.first_error(replay), "");
      const Tensor after = cuda::to_host(received.x);
      const auto a = before.values<float>(), b = after.values<float>();
      EXPECT_TRUE(
          std::ranges::equal(a, b, [](float x, float y) { return std::memcmp(&x, &y, sizeof(x)) == 0; }));
    }
  });
}

TEST_F(CudaGraphTest, MemoryGoesBackWithTheGraph) {
  constexpr int kWide = 8192;
  on_gpus(2, [](Communicator& comm) {
    TestStream stream;
    const cuda::StreamGuard guard(stream.get());
    ElasticBuffer buffer(comm, {.device = this_gpu(), .num_max_tokens_per_rank = kMaxTokens});
    const Tensor x = cuda::empty({kMaxTokens, kWide}, DType::kFloat32, this_gpu());
    const Tensor ids = cuda::to_device(Tensor::zeros({kMaxTokens, 1}, DType::kInt64), this_gpu());
    const auto capture_and_replay = [&] {
      const CapturedGraph graph(stream.get(), [&] {
        const auto received =
            buffer.dispatch({.x = x, .topk_idx = ids, .num_experts = kNumExperts, .do_cpu_sync = false});
        const Tensor y = buffer.empty({kMaxTokens * 128, kWide}, DType::kFloat32);
        buffer.combine({.x = received.x, .handle = received.handle});
      });
      comm.barrier();
      graph.launch();
      require(cudaStreamSynchronize(stream.get()), "replay a graph");
    };
    for (int i = 0; i < 12; ++i) {
      capture_and_replay();
      // CUDA lets go of what a graph kept on a thread of its own.
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    // One holds some 170 MiB.
    EXPECT_LT(buffer.arena_bytes(), std::int64_t{1} << 30);
  });
}

TEST_F(CudaGraphTest, ADispatchWithHostSyncCannotBeCaptured) {
  on_gpus(2, [](Communicator& comm) {
    TestStream stream;
    const cuda::StreamGuard guard(stream.get());
    ElasticBuffer buffer(comm, {.device = this_gpu()});
    const Tensor x = cuda::to_device(Tensor::zeros({4, kHidden}, DType::kFloat32), this_gpu());
    const Tensor ids = cuda::to_device(Tensor::zeros({4, 1}, DType::kInt64), this_gpu());
    const DispatchArgs args{.x = x, .topk_idx = ids, .num_experts = kNumExperts};
    const CapturedGraph graph(stream.get(), [&] { EXPECT_THROW(buffer.dispatch(args), InvalidArgument); });
    EXPECT_EQ(buffer.dispatch(args).x.size(0), comm.rank() == 0 ? 8 : 0);
  });
}

}  // namespace
}  // namespace flexep
