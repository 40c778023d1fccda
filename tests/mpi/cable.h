// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>

namespace flexep::testing {

/// Bytes that have gone through the cable (machines.h) of the machine on which a process runs, with the
/// headers of the network. @param process  its number, or "self".
inline std::int64_t num_bytes_sent_from_machine_of(const std::string& process) {
  // "cable: <received bytes> <7 more> <sent bytes> ..."
  constexpr int kSentColumn = 8;
  std::ifstream devices("/proc/" + process + "/net/dev");
  for (std::string name; devices >> name;) {
    if (name != "cable:") continue;
    std::int64_t value = 0;
    for (int column = 0; column <= kSentColumn; ++column) devices >> value;
    return value;
  }
  throw std::runtime_error("a machine without a cable");
}

}  // namespace flexep::testing
