// SPDX-License-Identifier: Apache-2.0
//
// Without flexep::moe there is no layer; validate() says so before anything else is called.
#include "bench/layer_bench.h"

namespace flexep::tool {

bool layer_bench_is_available() {
  return false;
}

std::vector<LayerResult> measure_layers(const BenchOptions& /*options*/, const Communicator& /*comm*/) {
  return {};
}

}  // namespace flexep::tool
