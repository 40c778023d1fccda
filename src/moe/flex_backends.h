// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "flexep/moe/token_dispatcher.h"
#include "moe/flex_backend.h"

namespace flexep::moe {

using Group = std::shared_ptr<ExpertParallelGroup>;

/// The registry: one function for each backend, defined in the file of its name.
std::unique_ptr<FlexBackend> make_deepep_backend(const MoeConfig& config, Group group);
std::unique_ptr<FlexBackend> make_deepepv2_backend(const MoeConfig& config, Group group);
std::unique_ptr<FlexBackend> make_hybridep_backend(const MoeConfig& config, Group group);
std::unique_ptr<FlexBackend> make_ncclep_backend(const MoeConfig& config, Group group);

/// The one that moe_flex_dispatcher_backend names.
std::unique_ptr<FlexBackend> make_flex_backend(const MoeConfig& config, Group group);

}  // namespace flexep::moe
