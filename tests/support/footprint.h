// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace flexep::test {

/// What this process holds of the system.
struct Footprint {
  std::ptrdiff_t num_mappings = 0;
  std::ptrdiff_t num_descriptors = 0;
  std::ptrdiff_t num_threads = 0;

  static Footprint now() {
    const auto count = [](const char* folder) {
      return std::distance(std::filesystem::directory_iterator(folder), {});
    };
    Footprint footprint{.num_descriptors = count("/proc/self/fd"), .num_threads = count("/proc/self/task")};
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) ++footprint.num_mappings;
    return footprint;
  }
};

/// That nothing has come in proportion to what was done a thousand times since `before`. A few mappings and
/// threads may: the allocator's, and threads that have ended but are not buried yet.
inline void expect_no_more_than(const Footprint& before) {
  constexpr std::ptrdiff_t kSlack = 20;
  const Footprint after = Footprint::now();
  EXPECT_LE(after.num_mappings, before.num_mappings + kSlack);
  EXPECT_EQ(after.num_descriptors, before.num_descriptors);
  EXPECT_LE(after.num_threads, before.num_threads + kSlack);
}

}  // namespace flexep::test
