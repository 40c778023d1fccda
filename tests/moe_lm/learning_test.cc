// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "job.h"

namespace moe_lm {
namespace {

/// The default job with fewer steps: what it promises for all of them must hold for these already.
TEST(LearningTest, TheDefaultJobLearnsAndItsExpertsMatter) {
  const std::string file = ::testing::TempDir() + "moe_lm_learning_" + std::to_string(getpid()) + ".json";
  Job job({"--steps", "280", "--json", file});
  ASSERT_EQ(job.wait(std::chrono::seconds(400)), 0) << job.err();
  std::ifstream in(file);
  const auto result = nlohmann::json::parse(in);
  std::filesystem::remove(file);

  const double heldout_bpb = result["heldout_bpb"];
  EXPECT_LT(heldout_bpb, result["unigram_bpb"].get<double>() - 1.5);
  EXPECT_LT(heldout_bpb, result["heldout_bpb_curve"][14].get<double>()) << "at 75% of the steps";
  EXPECT_EQ(result["heldout_steps"][14], 210);
  EXPECT_GT(result["ablation_zero_moe_bpb"], heldout_bpb + 0.2);
  EXPECT_GT(result["ablation_shuffled_experts_bpb"], heldout_bpb + 0.2);
  EXPECT_LT(result["expert_load_max_over_mean"], 3);
}

}  // namespace
}  // namespace moe_lm
