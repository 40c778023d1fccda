// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>

#include "machines.h"
#include "mpi.h"

namespace flexep::testing {

/// Tests on several machines that this one plays.
class MachinesTest : public ::testing::TestWithParam<Mpi> {
 protected:
  // Continuous integration can, and has to notice when it no longer does.
  void SetUp() override {
    const auto obstacle = Machines::obstacle();
    if (!obstacle) return;
    ASSERT_EQ(std::getenv("CI"), nullptr) << *obstacle;
    GTEST_SKIP() << *obstacle;
  }
};

}  // namespace flexep::testing
