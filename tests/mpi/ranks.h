// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "flexep/communicator.h"

namespace flexep::testing {

/// A test body of one rank: throws where something is not as it should be.
using Scenario = void (*)(Communicator& comm);

/// The scenario of that name. @throws std::out_of_range.
Scenario scenario_of(const std::string& name);

/// Throws with `what` unless `holds`.
void require(bool holds, const std::string& what);

}  // namespace flexep::testing
