// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "conformance/case_spec.h"
#include "flexep/reference.h"
#include "flexep/tensor.h"

namespace flexep::conformance {

/// What every rank passes to dispatch, by rank.
std::vector<reference::RankInput> make_inputs(const CaseSpec& spec);

/// The same routing with other rows (of the expert's dtype and hidden) and other weights, for a cached
/// dispatch.
std::vector<reference::RankInput> make_cached_inputs(const CaseSpec& spec,
                                                     const std::vector<reference::RankInput>& inputs);

/// What the experts of each rank make of its received rows, by rank; gap rows hold values that must not be
/// read.
std::vector<reference::CombineInput> make_expert_outputs(const CaseSpec& spec,
                                                         const std::vector<reference::RankOutput>& received);

}  // namespace flexep::conformance
