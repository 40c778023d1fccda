// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "doctor/machine_facts.h"

namespace flexep::tool {

/// Something that will hurt, and what to do about it.
struct Finding {
  std::string what;
  std::string remedy;  ///< a command, or what to ask for
};

/// What flexep does here, and why.
struct Choice {
  std::string what;  ///< "transport", ...
  std::string chosen;
  std::string why;
};

/// Pure functions of the facts; what is absent leads to no finding.
std::vector<Finding> findings_of(const MachineFacts& facts);
std::vector<Choice> choices_of(const MachineFacts& facts);

/// Cores that ranks of this machine can really use: online, allowed, and within the control group's share.
int num_effective_cores(const CpuFacts& cpu);

}  // namespace flexep::tool
