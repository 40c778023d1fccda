// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <string>

#include "support/processes.h"

namespace flexep::test {

/// A name that no other job of this machine has.
inline std::string job_id(const std::string& test) {
  return "shm_test/" + test + "/" + std::to_string(getpid());
}

inline int num_failed(Processes& processes, int num_ranks) {
  int num_failed = 0;
  for (int rank = 0; rank < num_ranks; ++rank) num_failed += processes.exit_code_of(rank) != 0;
  return num_failed;
}

}  // namespace flexep::test
