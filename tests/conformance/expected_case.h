// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "conformance/run_case.h"

namespace flexep::conformance {

/// A case and what the reference makes of it: once for all ranks, which are threads here.
struct ExpectedCase {
  CaseSpec spec;
  ExpectedResults expected{spec};
};

/// One rank's part of the cases, on the same buffers. Collective.
inline void run_all(const Communicator& comm, const std::vector<ExpectedCase>& cases) {
  CaseRunner runner(comm);
  for (const auto& [spec, expected] : cases) {
    const auto finding = runner.run(spec, expected);
    EXPECT_FALSE(finding) << "rank " << comm.rank() << ": " << *finding << "\n" << spec.to_string();
  }
}

}  // namespace flexep::conformance
