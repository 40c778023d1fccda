// SPDX-License-Identifier: Apache-2.0
#include "moe/flex_backends.h"

#include "flexep/error.h"

namespace flexep::moe {

std::unique_ptr<FlexBackend> make_flex_backend(const MoeConfig& config, Group group) {
  switch (config.flex_dispatcher_backend()) {
    case FlexDispatcherBackend::kDeepEp:
      return make_deepep_backend(config, std::move(group));
    case FlexDispatcherBackend::kDeepEpV2:
      return make_deepepv2_backend(config, std::move(group));
    case FlexDispatcherBackend::kHybridEp:
      return make_hybridep_backend(config, std::move(group));
    case FlexDispatcherBackend::kNcclEp:
      return make_ncclep_backend(config, std::move(group));
  }
  throw InvalidArgument("moe_flex_dispatcher_backend", "moe_flex_dispatcher_backend is no enumerator");
}

}  // namespace flexep::moe
