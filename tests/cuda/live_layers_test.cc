// SPDX-License-Identifier: Apache-2.0
//
// A model's worth of live outputs and handles, and what becomes of their memory.
#include <gtest/gtest.h>

#include <deque>
#include <vector>

#include "cuda/small_round_trip.h"
#include "flexep/cuda.h"
#include "flexep/elastic_buffer.h"

namespace flexep {
namespace {

using namespace flexep::testing;

constexpr int kNumLayers = 58;
constexpr int kNumMicrobatches = 4;
constexpr int kNumTokens = 32;
constexpr int kRowSize = 512;
constexpr int kNumTopk = 3;

class LiveLayersTest : public CudaTest {};

/// Rows that tell of their rank, layer and microbatch, small enough for exact sums.
float value_of(int rank, int layer, int microbatch) {
  return static_cast<float>(1 + rank + 8 * (microbatch + kNumMicrobatches * layer));
}

DispatchArgs args_of(int rank, int layer, int microbatch) {
  const std::vector<float> values(kNumTokens * kRowSize, value_of(rank, layer, microbatch));
  std::vector<std::int64_t> ids;
  for (int token = 0; token < kNumTokens; ++token)
    for (int column = 0; column < kNumTopk; ++column)
      ids.push_back((token * (layer + 1) + 2 * column + microbatch) % kNumExperts);
  return {.x = cuda::to_device(tensor_of<float>({kNumTokens, kRowSize}, values), this_gpu()),
          .topk_idx = cuda::to_device(tensor_of<std::int64_t>({kNumTokens, kNumTopk}, ids), this_gpu()),
          .num_experts = kNumExperts,
          .expert_alignment = 8,
          .do_expand = layer % 2 == 0,
          .async_with_compute_stream = true};
}

/// A dispatch whose output and handle are alive.
struct Live {
  int layer;
  int microbatch;
  DispatchResult received;
};

using Buffers = std::deque<ElasticBuffer>;
ElasticBuffer& buffer_of(Buffers& buffers, int microbatch) {
  return buffers[static_cast<std::size_t>(microbatch) % buffers.size()];
}

/// Two microbatches are in flight at a time, each on a buffer of its own.
std::vector<Live> forward(Buffers& buffers) {
  std::vector<Live> live;
  for (int first = 0; first < kNumMicrobatches; first += 2) {
    for (int layer = 0; layer < kNumLayers; ++layer) {
      for (const int microbatch : {first, first + 1}) {
        ElasticBuffer& buffer = buffer_of(buffers, microbatch);
        live.push_back({layer, microbatch, buffer.dispatch(args_of(buffer.rank(), layer, microbatch))});
      }
    }
  }
  return live;
}

/// Each token comes back as the sum of its copies: one for each expert, or for each rank that has some.
void expect_sums(const Tensor& x, const Live& live, const ElasticBuffer& buffer) {
  const auto sums = values_of<float>(cuda::to_host(x));
  const float value = value_of(buffer.rank(), live.layer, live.microbatch);
  for (int token = 0; token < kNumTokens; ++token) {
    std::vector<bool> has_rank(static_cast<std::size_t>(buffer.num_ranks()));
    for (int column = 0; column < kNumTopk; ++column) {
      const int expert = (token * (live.layer + 1) + 2 * column + live.microbatch) % kNumExperts;
      has_rank[static_cast<std::size_t>(expert * buffer.num_ranks() / kNumExperts)] = true;
    }
    const auto num_ranks = std::count(has_rank.begin(), has_rank.end(), true);
    const auto num_copies = static_cast<float>(live.layer % 2 == 0 ? kNumTopk : num_ranks);
    for (const int column : {0, kRowSize - 1})
      ASSERT_EQ(sums[static_cast<std::size_t>(token * kRowSize + column)], value * num_copies)
          << "layer " << live.layer << ", microbatch " << live.microbatch << ", token " << token;
  }
}

void backward(Buffers& buffers, std::vector<Live> live) {
  for (; !live.empty(); live.pop_back()) {
    const DispatchResult& received = live.back().received;
    ElasticBuffer& buffer = buffer_of(buffers, live.back().microbatch);
    cuda::wait(received.event);
    const auto combined = buffer.combine({.x = received.x, .handle = received.handle});
    expect_sums(combined.x, live.back(), buffer);
  }
}

void expect_trim_gives_memory_back(Buffers& buffers) {
  constexpr std::int64_t kManyBytes = 200 << 20;
  for (auto& buffer : buffers) {
    buffer.empty({kManyBytes}, DType::kUInt8);
    const std::int64_t held = buffer.arena_bytes();
    const std::int64_t num_bytes = buffer.trim();
    EXPECT_GE(num_bytes, kManyBytes / 2);  // some of it lay in what there was before
    EXPECT_EQ(buffer.arena_bytes(), held - num_bytes);
    EXPECT_EQ(buffer.trim(), 0);
  }
}

TEST_F(LiveLayersTest, AllLayersOfAllMicrobatchesAreRightAndTheirMemoryIsUsedAgain) {
  on_gpus(2, [](Communicator& comm) {
    Buffers buffers;
    for (int i = 0; i < 2; ++i) buffers.emplace_back(comm, ElasticBufferConfig{.device = this_gpu()});
    std::vector<std::int64_t> arena_bytes;
    for (int step = 0; step < 3; ++step) {
      backward(buffers, forward(buffers));
      for (const auto& buffer : buffers) arena_bytes.push_back(buffer.arena_bytes());
    }
    // The second step finds all that the first has given back; so does the third.
    EXPECT_EQ(arena_bytes[2], arena_bytes[0]);
    EXPECT_EQ(arena_bytes[3], arena_bytes[1]);
    EXPECT_EQ(arena_bytes[4], arena_bytes[0]);
    EXPECT_EQ(arena_bytes[5], arena_bytes[1]);
    expect_trim_gives_memory_back(buffers);
    backward(buffers, forward(buffers));
  });
}

}  // namespace
}  // namespace flexep
