// SPDX-License-Identifier: Apache-2.0
#include "flexep/flexep.h"

namespace flexep {

const char* version() {
  return FLEXEP_VERSION;
}

}  // namespace flexep
