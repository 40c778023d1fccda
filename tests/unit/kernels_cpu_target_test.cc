// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "flexep/error.h"
#include "kernels/cpu/cpu_target.h"

namespace flexep::cpu {
namespace {

TEST(CpuTargetTest, ScalarIsAlwaysAvailableAndLast) {
  EXPECT_EQ(available_cpu_targets().back(), "scalar");
}

TEST(CpuTargetTest, TheBestIsUsedUnlessAnotherIsForced) {
  EXPECT_EQ(cpu_target(), available_cpu_targets().front());
  force_cpu_target("scalar");
  EXPECT_EQ(cpu_target(), "scalar");
  force_cpu_target("");
  EXPECT_EQ(cpu_target(), available_cpu_targets().front());
}

TEST(CpuTargetTest, AForcedTargetThatTheMachineLacksIsAnErrorThatSaysWhatThereIs) {
  try {
    force_cpu_target("altivec");
    FAIL() << "no error";
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find("'altivec'"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("scalar"), std::string::npos) << error.what();
  }
  EXPECT_EQ(cpu_target(), available_cpu_targets().front());
}

}  // namespace
}  // namespace flexep::cpu
