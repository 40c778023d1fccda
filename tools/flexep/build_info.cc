// SPDX-License-Identifier: Apache-2.0
#include "build_info.h"

#include "build_info_values.h"
#include "flexep/flexep.h"

namespace flexep::tool {

BuildInfo build_info() {
  return {.version = version(),
          .commit = FLEXEP_COMMIT,
          .dirty = FLEXEP_DIRTY,
          .build_type = FLEXEP_BUILD_TYPE,
          .compiler = FLEXEP_COMPILER,
          .transports = FLEXEP_TRANSPORTS,
          .devices = FLEXEP_DEVICES};
}

}  // namespace flexep::tool
