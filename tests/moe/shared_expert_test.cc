// SPDX-License-Identifier: Apache-2.0
#include "moe/shared_expert.h"

#include <gtest/gtest.h>

#include "matrices.h"
#include "moe/gemm.h"

namespace flexep::moe {
namespace {

using testing::random_tensor;
using testing::rejected_argument;
using testing::rows_of;

constexpr std::int64_t kTokens = 5, kHidden = 4, kWidth = 3;

const SharedExpertWeights<Tensor> kWeights{.fc1 = random_tensor(2 * kWidth, kHidden, 1),
                                           .fc2 = random_tensor(kHidden, kWidth, 2),
                                           .gate = random_tensor(1, kHidden, 3)};
const Tensor kRows = random_tensor(kTokens, kHidden, 4);

Tensor run(SharedExpertForward& expert) {
  expert.begin_fc1();
  expert.begin_fc2();
  return expert.finish();
}

TEST(SharedExpertTest, ItsStepsGoInOneOrderOnce) {
  SharedExpertForward expert(cpu_device(), kWeights, kRows, /*overlap=*/true);
  EXPECT_EQ(rejected_argument([&] { expert.begin_fc2(); }), "shared_expert");
  EXPECT_EQ(rejected_argument([&] { expert.finish(); }), "shared_expert");
  expert.begin_fc1();
  EXPECT_EQ(rejected_argument([&] { expert.begin_fc1(); }), "shared_expert");
  EXPECT_EQ(rejected_argument([&] { expert.finish(); }), "shared_expert");
  expert.begin_fc2();
  EXPECT_EQ(rejected_argument([&] { expert.begin_fc2(); }), "shared_expert");
  expert.finish();
  EXPECT_EQ(rejected_argument([&] { expert.finish(); }), "shared_expert");
}

TEST(SharedExpertTest, WithOverlapTheCallersThreadComputesNothing) {
  const auto seconds_of = [](bool overlap) {
    SharedExpertForward expert(cpu_device(), kWeights, kRows, overlap);
    const double before = seconds_in_gemms();
    run(expert);
    return seconds_in_gemms() - before;
  };
  EXPECT_EQ(seconds_of(true), 0);
  EXPECT_GT(seconds_of(false), 0);
}

TEST(SharedExpertTest, OverlapChangesNoBit) {
  SharedExpertForward apart(cpu_device(), kWeights, kRows, false);
  SharedExpertForward beside(cpu_device(), kWeights, kRows, true);
  EXPECT_EQ(rows_of(run(apart)), rows_of(run(beside)));
}

TEST(SharedExpertTest, OneThatIsLeftInTheMiddleEndsByItself) {
  SharedExpertForward expert(cpu_device(), kWeights, kRows, true);
  expert.begin_fc1();
  expert.begin_fc2();
}

}  // namespace
}  // namespace flexep::moe
