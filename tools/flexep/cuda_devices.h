// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace flexep::tool {

/// Empty when this process can use a GPU. To be called before CUDA is used: sets CUDA_DEVICE_MAX_CONNECTIONS,
/// the number of queues that a process has in the hardware. Ranks that are threads wait for each other on
/// streams, each of which needs a queue of its own; ranks that are processes have few streams, and together
/// no more queues than the hardware has. Where ranks are threads it has all kernels of a library loaded
/// before the first one runs, too, since loading one could wait for those of other ranks:
/// CUDA_MODULE_LOADING, unless it is set.
std::string why_no_cuda_device();

/// GPUs that this process sees.
int num_cuda_devices();
/// The name of the first GPU; empty when there is none.
std::string cuda_device_name();
/// The names of all GPUs.
std::vector<std::string> cuda_device_names();
/// Whether GPU `from` can load and store the memory of GPU `to`, another one.
bool cuda_can_access(int from, int to);

}  // namespace flexep::tool
