// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/bench_options.h"
#include "bench/timing.h"
#include "flexep/communicator.h"

namespace flexep::tool {

/// The steps of a MoE layer, as MoeSeconds has them, but for the router's matrix products, which stand apart.
/// Dispatch and combine include permutation, and in a backward each includes its mirror image.
inline constexpr std::array<std::string_view, 6> kLayerSteps = {"router",  "router_gemms", "dispatch",
                                                                "experts", "combine",      "shared_expert"};

/// What one layer gave. Microseconds, medians over iterations.
struct LayerResult {
  std::string op;          ///< layer_forward or layer_forward_backward
  std::string dispatcher;  ///< the name of its case: "alltoall", "deepepv2+fusion"
  Times times;
  double rest_us =
      0;  ///< of the whole, without the longest time that a rank spent in GEMMs: router's, experts
  std::array<double, kLayerSteps.size()> steps_us{};  ///< of kLayerSteps: means over ranks
  /// With an overlapped shared expert: the part of its time that the layer does not wait for, against the
  /// same layer without overlap.
  std::optional<double> shared_expert_hidden;
  bool verified = false;
};

/// Whether this binary has the MoE layer.
bool layer_bench_is_available();

/// Forward, and forward with backward, of the same MoE layer with every dispatcher and flex backend, on the
/// same tokens, iteration by iteration side by side. Before and after, each one's output and gradients are
/// held against those of alltoall, alltoall's against those of allgather, within what docs/numerics.md
/// allows; a rank says on stderr what it found wrong. The same results on every rank. Collective.
std::vector<LayerResult> measure_layers(const BenchOptions& options, const Communicator& comm);

}  // namespace flexep::tool
