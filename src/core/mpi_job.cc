// SPDX-License-Identifier: Apache-2.0
#include "core/mpi_job.h"

#include <fmt/format.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>

#include "common/check.h"
#include "core/timeout.h"
#include "flexep/error.h"
#include "transport/broken_groups.h"
#include "transport/mpi/load_mpi_library.h"
#include "transport/mpi/mpi_world.h"
#include "transport/open_transport.h"

namespace flexep {
namespace {

MpiLibrary* library_to_finalize = nullptr;

// After a failure MPI would wait for ranks that are gone.
void finalize_at_exit() {
  if (!has_broken_group() && !library_to_finalize->is_finalized()) library_to_finalize->finalize();
}

void initialize_once(MpiLibrary& library) {
  if (library.is_initialized()) return;
  library.initialize();
  library_to_finalize = &library;
  std::atexit(finalize_at_exit);
}

void require_running(const MpiLibrary& library) {
  require_argument(library.is_initialized() && !library.is_finalized(), "comm",
                   "MPI ({}) has {}: a group needs it from MPI_Init to MPI_Finalize", library.description(),
                   library.is_finalized() ? "been finalised" : "not been initialised");
  require_argument(
      library.threads() != MpiThreads::kMainThread || library.is_main_thread(), "comm",
      "MPI was initialised for calls of the main thread alone (MPI_THREAD_FUNNELED or less), and this is "
      "another one");
}

int requested_scaleup_size(const CommunicatorOptions& options, const Environment& env) {
  const bool is_given = options.num_scaleup_ranks != 0;
  const char* const name = is_given ? "num_scaleup_ranks" : "FLEXEP_SCALEUP_SIZE";
  const int size = is_given ? options.num_scaleup_ranks : env.scaleup_size.value_or(0);
  require_argument(size > 0 || (!is_given && !env.scaleup_size), name,
                   "{} is {}, but a domain has at least 1 rank", name, size);
  return size;
}

Communicator open(const std::shared_ptr<MpiWorld>& world, const CommunicatorOptions& options,
                  const Environment& env) {
  return Communicator(
      open_mpi_group(world, requested_scaleup_size(options, env), resolve_timeout(options, env)));
}

// MPI's own errors at set-up, as ours.
template <typename Work>
auto guarded(Work work) {
  try {
    return work();
  } catch (const Error&) {
    throw;
  } catch (const std::runtime_error& error) {
    throw TransportError(error.what());
  }
}

// One for all groups of the launcher's processes: it is never freed.
std::shared_ptr<MpiWorld> world_of_launcher(MpiLibrary& library, int num_ranks) {
  static std::mutex mutex;
  static auto& world = *new std::shared_ptr<MpiWorld>;
  const std::lock_guard lock(mutex);
  if (world) return world;
  initialize_once(library);
  require_running(library);
  world = std::make_shared<MpiWorld>(library, library.duplicate(nullptr));
  const int num_found = world->communicator().num_ranks();
  require_argument(
      num_found == num_ranks, "FLEXEP_MPI_LIBRARY",
      "the launcher has started {} ranks, but {}, for which flexep's library was built, knows of {}: the "
      "launcher belongs to another MPI",
      num_ranks, library.description(), num_found);
  return world;
}

}  // namespace

Communicator from_mpi_launcher(const CommunicatorOptions& options, const Environment& env) {
  return guarded([&] {
    MpiLibrary& library = load_mpi_library(env.mpi_library);
    return open(world_of_launcher(library, *env.mpi_num_ranks), options, env);
  });
}

Communicator internal::from_mpi_handle(const void* comm, std::size_t handle_bytes,
                                       const CommunicatorOptions& options) {
  return guarded([&] {
    const Environment env = Environment::read();
    MpiLibrary& library = load_mpi_library(env.mpi_library);
    require_argument(
        handle_bytes == library.handle_bytes(), "comm",
        "the program uses another MPI than {}, for which flexep's library was built: name one for the "
        "program's in FLEXEP_MPI_LIBRARY",
        library.description());
    require_running(library);
    return open(std::make_shared<MpiWorld>(library, library.duplicate(comm)), options, env);
  });
}

}  // namespace flexep
