// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "transport/mpi/mpi_library.h"

namespace flexep {

/// Loads the shared library with flexep's MPI calls, the first time; it stays.
/// @param path  of the library; without one it is looked for next to the program or library that holds
/// flexep, in
///              the places that the system knows, and where flexep was built.
/// @throws InvalidArgument when there is none: in a build without MPI, for instance.
MpiLibrary& load_mpi_library(const std::optional<std::string>& path);

}  // namespace flexep
