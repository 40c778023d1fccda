// SPDX-License-Identifier: Apache-2.0
//
// A training step of a large model: what the forward pass of every layer and microbatch received stays alive
// until the backward pass has used it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "flexep/flexep.h"

namespace flexep {
namespace {

constexpr int kNumRanks = 2;
constexpr int kNumLayers = 58;
constexpr int kNumMicrobatches = 4;
constexpr int kNumTokens = 6;
constexpr int kHidden = 32;
constexpr int kNumExperts = 4;

/// What a token holds before the first layer. Each layer multiplies it by 4: two experts that double it.
float first_value(int rank, int token, int microbatch) {
  return static_cast<float>(1 + token + 10 * rank + 100 * microbatch);
}
float after_layers(float value, int num_layers) {
  return std::ldexp(value, 2 * num_layers);
}

// In another place in every layer.
Tensor route(int rank, int layer, int microbatch) {
  const Tensor topk_idx = Tensor::empty({kNumTokens, 2}, DType::kInt64);
  for (int token = 0; token < kNumTokens; ++token) {
    const int first = (token + rank + layer + microbatch) % kNumExperts;
    topk_idx.data<std::int64_t>()[2 * token] = first;
    topk_idx.data<std::int64_t>()[2 * token + 1] = (first + 1 + layer % 3) % kNumExperts;
  }
  return topk_idx;
}

Tensor rows_of(const std::vector<float>& values) {
  const Tensor x = Tensor::empty({kNumTokens, kHidden}, DType::kFloat32);
  for (std::size_t i = 0; i < x.values<float>().size(); ++i) x.data<float>()[i] = values[i / kHidden];
  return x;
}

// What the two experts of a token do with it, for compact and expanded rows alike: combine sums pairs.
Tensor run_experts(ElasticBuffer& buffer, const Tensor& x) {
  Tensor y = buffer.empty(x.shape(), x.dtype());
  std::ranges::transform(x.values<float>(), y.data<float>(), [](float value) { return 2 * value; });
  return y;
}

/// What a layer keeps for its backward pass.
struct Saved {
  Tensor recv_x;
  DispatchHandle handle;
};

class Step {
 public:
  explicit Step(ElasticBuffer& buffer) : buffer_(buffer) {}

  void forward(int microbatch) {
    std::vector<float> values;
    for (int token = 0; token < kNumTokens; ++token)
      values.push_back(first_value(buffer_.rank(), token, microbatch));
    Tensor x = rows_of(values);
    for (int layer = 0; layer < kNumLayers; ++layer) {
      const auto recv = buffer_.dispatch({.x = x,
                                          .topk_idx = route(buffer_.rank(), layer, microbatch),
                                          .num_experts = kNumExperts,
                                          .do_expand = true});
      x = buffer_.combine({.x = run_experts(buffer_, recv.x), .handle = recv.handle}).x;
      saved_.push_back({recv.x, recv.handle});
    }
    for (int token = 0; token < kNumTokens; ++token) {
      EXPECT_EQ(x.data<float>()[token * kHidden],
                after_layers(values[static_cast<std::size_t>(token)], kNumLayers));
    }
  }

  void backward(int microbatch) {
    Tensor grad = rows_of(std::vector<float>(kNumTokens, 1.0F));
    for (int layer = kNumLayers - 1; layer >= 0; --layer) {
      const Saved saved = std::move(saved_.back());
      saved_.pop_back();
      expect_untouched(saved, layer, microbatch);
      const auto recv = buffer_.dispatch({.x = grad, .handle = saved.handle});
      grad = buffer_.combine({.x = run_experts(buffer_, recv.x), .handle = saved.handle}).x;
    }
    for (const float value : grad.values<float>()) EXPECT_EQ(value, after_layers(1, kNumLayers));
  }

 private:
  void expect_untouched(const Saved& saved, int layer, int microbatch) const {
    const Tensor& metadata = saved.handle.recv_src_metadata();
    for (std::int64_t i = 0; i < metadata.size(0); ++i) {
      const std::int32_t* row = metadata.data<std::int32_t>() + i * metadata.size(1);
      const int max_tokens = saved.handle.num_max_tokens_per_rank();
      const float expected =
          after_layers(first_value(row[0] / max_tokens, row[0] % max_tokens, microbatch), layer);
      for (const std::int32_t recv_row : {row[2], row[3]}) {
        if (recv_row < 0) continue;
        const float* values = saved.recv_x.data<float>() + std::int64_t{recv_row} * kHidden;
        EXPECT_TRUE(std::all_of(values, values + kHidden, [&](float value) { return value == expected; }))
            << "layer " << layer << ", microbatch " << microbatch << ", row " << recv_row;
      }
    }
  }

  ElasticBuffer& buffer_;
  std::vector<Saved> saved_;
};

TEST(LiveTensorsTest, OutputsOfEveryLayerAndMicrobatchLiveUntilTheBackwardPassAndThenGoBack) {
  in_process(kNumRanks, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    std::int64_t largest = 0;
    for (int step = 0; step < 2; ++step) {
      Step training_step(buffer);
      for (int i = 0; i < kNumMicrobatches; ++i) training_step.forward(i);
      const auto held = buffer.arena_bytes();
      if (step == 0) largest = held;
      EXPECT_EQ(held, largest) << "the second step found the memory of the first";
      for (int i = kNumMicrobatches - 1; i >= 0; --i) training_step.backward(i);
    }
    buffer.trim();
    EXPECT_EQ(buffer.arena_bytes(), 0);
  });
}

}  // namespace
}  // namespace flexep
