// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

namespace flexep {

/// Every environment variable that flexep reads, one documented member each. Nothing else in the library
/// calls getenv.
struct Environment {
  /// RANK: this process's rank in the job. As torchrun sets it.
  std::optional<int> rank;
  /// WORLD_SIZE: number of ranks in the job.
  std::optional<int> world_size;
  /// LOCAL_RANK: this process's rank among those on its machine.
  std::optional<int> local_rank;
  /// LOCAL_WORLD_SIZE: number of ranks on this machine.
  std::optional<int> local_world_size;
  /// FLEXEP_JOB_ID, else TORCHELASTIC_RUN_ID, else MASTER_ADDR:MASTER_PORT: names the job, so that local
  /// processes of one job find each other and those of two jobs do not.
  std::optional<std::string> job_id;
  /// FLEXEP_TIMEOUT_SECS: how long an operation waits for a peer before it throws TimeoutError. Default 300.
  std::optional<double> timeout_secs;
  /// FLEXEP_NUM_THREADS: threads that one rank uses for communication when `num_sms` is 0. Default: cores /
  /// local ranks.
  std::optional<int> num_threads;
  /// FLEXEP_CPU_TARGET: forces an instruction set of the CPU kernels ("scalar", "avx2", "avx512"); the
  /// results are the same.
  std::optional<std::string> cpu_target;
  /// FLEXEP_SCALEUP_SIZE: ranks of a domain, so that one machine, or one process, can play several. Default:
  /// all ranks that share memory.
  std::optional<int> scaleup_size;

  /// OMPI_COMM_WORLD_SIZE, else PMI_SIZE, else SLURM_STEP_NUM_TASKS or SLURM_NTASKS where srun speaks PMIx:
  /// the number of ranks that a launcher of MPI has started, this process among them.
  std::optional<int> mpi_num_ranks;
  /// FLEXEP_MPI_LIBRARY: path of the shared library with flexep's MPI calls (docs/mpi.md). Default: the one
  /// that flexep was built with.
  std::optional<std::string> mpi_library;

  /// Reads the environment as it is now. @throws InvalidArgument that names a variable whose value does not
  /// parse.
  static Environment read();
};

}  // namespace flexep
