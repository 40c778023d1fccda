// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace flexep::tool {

/// Empty when this process can use a GPU. Makes each stream of a process have a queue of its own in the
/// hardware, where nobody has said how many there are to be: ranks that are threads wait for each other on
/// streams. To be called before CUDA is used.
std::string why_no_cuda_device();

}  // namespace flexep::tool
