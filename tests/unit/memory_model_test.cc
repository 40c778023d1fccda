// SPDX-License-Identifier: Apache-2.0
#include "flexep/memory_model.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "flexep/elastic_buffer.h"
#include "flexep/error.h"

namespace flexep {
namespace {

constexpr MemoryInputs kEp8{.num_ranks = 8,
                            .num_tokens = 4096,
                            .hidden = 7168,
                            .num_topk = 8,
                            .num_experts = 256,
                            .num_live_dispatches = 58};

TEST(MemoryModelTest, UniformRoutingSendsATokenToTheExpectedNumberOfRanks) {
  const MemoryNeed need = plan_memory(kEp8);
  EXPECT_EQ(need.num_recv_tokens, 21687);  // 4096 * 5.29465, rounded up
  EXPECT_EQ(need.recv_x, 21687 * 14336);
  EXPECT_EQ(need.recv_topk_idx, (21687 * 8 * 8 + 127) / 128 * 128);
  EXPECT_EQ(need.combined_x, 4096 * 14336);
  EXPECT_EQ(need.total_bytes(), 58 * need.dispatch_bytes() + need.combine_bytes());
}

TEST(MemoryModelTest, ExpandedRowsArePairsRoundedUpByExpert) {
  MemoryInputs inputs = kEp8;
  inputs.do_expand = true;
  inputs.expert_alignment = 100;
  // 4096 * 8 * 8 / 256 pairs of each expert.
  EXPECT_EQ(plan_memory(inputs).num_rows, 32 * 1100);
}

TEST(MemoryModelTest, RowsThatCrossDomainsAreStagedWithinTheirLimit) {
  EXPECT_EQ(plan_memory(kEp8).staging, 0);
  MemoryInputs inputs = kEp8;
  inputs.num_domains = 2;
  const MemoryNeed need = plan_memory(inputs);
  EXPECT_GT(need.staging, 4 << 20);
  EXPECT_EQ(need.total_bytes(), 58 * need.dispatch_bytes() + need.combine_bytes() + need.staging);
  for (const bool allow_hybrid_mode : {false, true}) {
    inputs.allow_hybrid_mode = allow_hybrid_mode;
    inputs.max_staging_bytes = 1 << 20;
    EXPECT_GT(plan_memory(inputs).staging, 0);
    EXPECT_LE(plan_memory(inputs).staging, 1 << 20);
  }
  inputs.max_staging_bytes = 1000;
  EXPECT_THROW(plan_memory(inputs), InvalidArgument);
  inputs.num_domains = 3;
  EXPECT_THROW(plan_memory(inputs), InvalidArgument);
}

TEST(MemoryModelTest, WorstCaseIsWhatADispatchWithoutHostSyncAllocates) {
  for (const int max_recv_tokens : {0, 9}) {
    for (const bool do_expand : {false, true}) {
      const MemoryNeed need = plan_memory({.num_tokens = 5,
                                           .hidden = 32,
                                           .num_topk = 2,
                                           .num_experts = 4,
                                           .expert_alignment = 3,
                                           .do_expand = do_expand,
                                           .dtype = DType::kFloat32,
                                           .is_worst_case = true,
                                           .max_recv_tokens = max_recv_tokens});
      ElasticBuffer buffer(Communicator::self(), {.num_max_tokens_per_rank = 5});
      const auto recv = buffer.dispatch(
          {.x = Tensor::zeros({1, 32}, DType::kFloat32),
           .topk_idx = Tensor::from_values<std::int64_t>(std::vector<std::int64_t>{0, 1}, {1, 2}),
           .topk_weights = Tensor::zeros({1, 2}, DType::kFloat32),
           .num_experts = 4,
           .expert_alignment = 3,
           .do_expand = do_expand,
           .max_recv_tokens = max_recv_tokens,
           .do_cpu_sync = false});
      const auto aligned = [](const Tensor& tensor) {
        return static_cast<std::int64_t>((tensor.num_bytes() + 127) / 128 * 128);
      };
      EXPECT_EQ(need.num_rows, recv.x.size(0));
      EXPECT_EQ(need.recv_x, aligned(recv.x));
      EXPECT_EQ(need.recv_topk_idx, aligned(recv.topk_idx));
      EXPECT_EQ(need.recv_topk_weights, aligned(recv.topk_weights));
      EXPECT_EQ(need.recv_src_metadata, aligned(recv.handle.recv_src_metadata()));
    }
  }
}

TEST(MemoryModelTest, SaysWhatEachPurposeTakes) {
  const std::string text = plan_memory(kEp8).to_string();
  EXPECT_NE(text.find("58 live dispatches of 21687 rows"), std::string::npos) << text;
  EXPECT_NE(text.find("310904832"), std::string::npos) << text;  // recv.x
  EXPECT_NE(text.find(std::to_string(plan_memory(kEp8).total_bytes())), std::string::npos) << text;
}

TEST(MemoryModelTest, WrongInputsAreRefused) {
  EXPECT_THROW(plan_memory({}), InvalidArgument);
  MemoryInputs inputs = kEp8;
  inputs.num_experts = 255;
  EXPECT_THROW(plan_memory(inputs), InvalidArgument);
  inputs = kEp8;
  inputs.num_tokens = std::int64_t{1} << 40;
  EXPECT_THROW(plan_memory(inputs), InvalidArgument);
}

}  // namespace
}  // namespace flexep
