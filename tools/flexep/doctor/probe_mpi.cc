// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <sstream>

#include "doctor/probes.h"

namespace flexep::tool {
namespace {

constexpr std::array kLibraryFolders = {
    "usr/lib",       "usr/lib64",      "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu",
    "usr/local/lib", "opt/openmpi/lib"};
constexpr std::array kLibraries = {"libmpi.so.", "libmpich.so.", "libmpi_intel.so."};
constexpr std::array kLaunchers = {"mpirun", "mpiexec", "srun"};

std::vector<std::string> libraries_of(const MachineRoot& root) {
  std::vector<std::string> libraries;
  for (const char* folder : kLibraryFolders) {
    const auto names = root.names_in(folder);
    for (const std::string_view prefix : kLibraries) {
      // The longest name of one library says its version.
      std::string found;
      for (const std::string& name : names)
        if (name.starts_with(prefix) && name.size() > found.size()) found = name;
      if (!found.empty()) libraries.push_back(fmt::format("/{}/{}", folder, found));
    }
  }
  return libraries;
}

std::vector<std::string> launchers_of(const MachineRoot& root, const std::string& search_path) {
  std::vector<std::string> launchers;
  for (const std::string launcher : kLaunchers) {
    std::istringstream folders(search_path);
    for (std::string folder; std::getline(folders, folder, ':');) {
      if (folder.empty() || !std::ranges::binary_search(root.names_in(folder), launcher)) continue;
      launchers.push_back(fmt::format("{}/{}", folder, launcher));
      break;
    }
  }
  return launchers;
}

}  // namespace

// Nothing is loaded and nothing is run: a library that is broken would take the report with it.
MpiFacts probe_mpi(const MachineRoot& root, const std::string& search_path) {
  return {.libraries = libraries_of(root), .launchers = launchers_of(root, search_path)};
}

}  // namespace flexep::tool
