// SPDX-License-Identifier: Apache-2.0
#include "plan/memory_rows.h"

namespace flexep::tool {

void add_memory_rows(Operation operation, const MemoryFlow& flow, RankLoad& load) {
  const double staged = flow.crossing_out + flow.crossing_in;
  switch (operation) {
    case Operation::kDispatch:
      // Read once for the own domain and once to be packed; what is packed is sent, what has come is stored.
      load.rows_read = flow.tokens + flow.crossing_out + staged;
      load.rows_written = flow.placed + staged;
      return;
    case Operation::kCombine:
      load.rows_read = flow.placed + staged;
      load.rows_written = flow.tokens + staged;
      return;
  }
}

}  // namespace flexep::tool
