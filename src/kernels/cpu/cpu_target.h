// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace flexep::cpu {

/// The instruction sets that the kernels were compiled for and this machine has, best first: of "avx512",
/// "avx2", "sse4", "ssse3" on x86, "neon" on Arm; "scalar" is always the last.
std::vector<std::string> available_cpu_targets();

/// The instruction set that kernels use now: the best one unless another was forced.
std::string cpu_target();

/// Kernels of this process use the instruction set `name` from now on; "" returns to the best. The results
/// are the same bits. Not while kernels run on other threads.
/// @throws InvalidArgument that says which ones there are, when this machine lacks it.
void force_cpu_target(std::string_view name);

}  // namespace flexep::cpu
