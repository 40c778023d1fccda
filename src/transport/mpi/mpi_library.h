// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace flexep {

/// How far a message has come.
enum class MpiProgress { kUnderWay, kComplete, kOtherLength, kFailed };

/// A message that MPI sends or receives. Its bytes stay where they are until it is complete, cancelled or has
/// failed; destroying it earlier leaves it to MPI.
class MpiRequest {
 public:
  virtual ~MpiRequest() = default;
  /// Lets MPI work on all messages, and asks about this one.
  virtual MpiProgress test() = 0;
  /// Asks MPI to give a receive up; test() tells when it has, as kComplete.
  virtual void cancel() = 0;
  /// After kFailed: what MPI says.
  virtual std::string error() const = 0;
};

/// A communicator of flexep's own, which meets no message of anybody else's.
class MpiCommunicator {
 public:
  virtual ~MpiCommunicator() = default;

  virtual int rank() const = 0;
  virtual int num_ranks() const = 0;
  /// Tags are numbers from 0 to this one.
  virtual int max_tag() const = 0;

  /// Set-up: these block for as long as MPI likes. Collective. @throws std::runtime_error.
  virtual int first_rank_of_machine() = 0;
  virtual void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) = 0;

  /// At most kMaxMessageBytes. Never blocks, and never throws: test() tells of a refusal.
  virtual std::unique_ptr<MpiRequest> send(int rank, int tag, std::span<const std::byte> bytes) = 0;
  virtual std::unique_ptr<MpiRequest> receive(int rank, int tag, std::span<std::byte> bytes) = 0;
  /// Takes a message of this tag that has come from anybody, if there is one. @return whether there was.
  virtual bool take(int tag, std::span<std::byte> bytes) = 0;

  /// MPI counts bytes in an int.
  static constexpr std::size_t kMaxMessageBytes = std::size_t{1} << 30;
};

/// Which threads may call MPI, as MPI_Init_thread has granted it.
enum class MpiThreads { kMainThread, kOneAtATime, kAny };

/// The MPI that flexep uses: a shared library of its own (src/mpi_library) that is loaded when it is needed.
/// So programs without MPI carry none, and one flexep works with every MPI for which that library was built.
class MpiLibrary {
 public:
  virtual ~MpiLibrary() = default;

  /// Name and version.
  virtual std::string description() const = 0;
  /// sizeof(MPI_Comm): tells the two families of MPI apart that exist.
  virtual std::size_t handle_bytes() const = 0;

  virtual bool is_initialized() const = 0;
  virtual bool is_finalized() const = 0;
  /// Asks for MPI_THREAD_MULTIPLE. @throws std::runtime_error.
  virtual void initialize() = 0;
  virtual void finalize() = 0;
  virtual MpiThreads threads() const = 0;
  virtual bool is_main_thread() const = 0;

  /// A duplicate of the MPI_Comm at `handle`, of MPI_COMM_WORLD for nullptr; its errors are returned.
  /// Collective. @throws std::runtime_error.
  virtual std::unique_ptr<MpiCommunicator> duplicate(const void* handle) = 0;
};

/// The one function of the shared library.
inline constexpr const char* kMpiLibraryFunction = "flexep_mpi_library";
using MpiLibraryFunction = MpiLibrary*();

}  // namespace flexep
