// SPDX-License-Identifier: Apache-2.0
#include "transport/mpi/load_mpi_library.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <mutex>
#include <vector>

#include "common/check.h"

namespace flexep {
namespace {

std::vector<std::string> places_to_look(const std::optional<std::string>& path) {
  if (path) return {*path};
  std::vector<std::string> places;
  Dl_info self;
  if (dladdr(reinterpret_cast<const void*>(&load_mpi_library), &self) != 0) {
    const auto folder = std::filesystem::path(self.dli_fname).parent_path();
    places.push_back(folder / FLEXEP_MPI_LIBRARY_NAME);
  }
  places.insert(places.end(),
                {FLEXEP_MPI_LIBRARY_NAME, FLEXEP_INSTALLED_MPI_LIBRARY, FLEXEP_BUILT_MPI_LIBRARY});
  return places;
}

MpiLibrary& load(const std::optional<std::string>& path) {
  std::vector<std::string> failures;
  for (const std::string& place : places_to_look(path)) {
    void* const library = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
    void* const function = library != nullptr ? dlsym(library, kMpiLibraryFunction) : nullptr;
    if (function != nullptr) return *reinterpret_cast<MpiLibraryFunction*>(function)();
    failures.emplace_back(dlerror());
  }
  throw InvalidArgument(
      "FLEXEP_MPI_LIBRARY",
      fmt::format(
          "this job needs MPI, and flexep's library for it cannot be loaded; it is part of builds with "
          "FLEXEP_WITH_MPI, and FLEXEP_MPI_LIBRARY can name it ({})",
          fmt::join(failures, "; ")));
}

}  // namespace

MpiLibrary& load_mpi_library(const std::optional<std::string>& path) {
  static std::mutex mutex;
  static MpiLibrary* library = nullptr;
  const std::lock_guard lock(mutex);
  if (library == nullptr) library = &load(path);
  return *library;
}

}  // namespace flexep
