// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace flexep {

struct LaunchOptions {
  int num_ranks = 1;
  /// Program and its arguments. A program without a slash is looked up in PATH.
  std::vector<std::string> command;
  /// Puts "[rank] " before each line that a rank writes. False: ranks write to our own streams directly.
  bool prefix_output = true;
  /// How long the other ranks may go on after one has failed.
  std::chrono::milliseconds grace{5000};
};

/// Runs `command` once for each of num_ranks ranks, as processes of this machine, and returns when all have
/// ended.
///
/// Each gets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, a FLEXEP_JOB_ID that no other job has, and
/// /dev/null to read. SIGINT, SIGTERM and SIGHUP go to every rank. When a rank fails, the others have `grace`
/// to report it; then they get SIGTERM and, one second later, SIGKILL. If this process dies, whatever the
/// cause, the kernel kills the ranks. Call it from the main thread, before other threads exist.
///
/// @return 0, or the exit code of the rank that failed first: its own, 128 + signal for a killed one; 127
/// when there is no such
///         program, 126 when it cannot be run. Says on stderr which rank failed, and how.
/// @throws std::system_error when the operating system refuses a process or a pipe; no rank is left behind.
int launch(const LaunchOptions& options);

/// Path of the program that is running.
std::string own_executable();

/// This program itself with these arguments, for LaunchOptions::command: a program that finds RANK unset
/// starts its ranks so.
std::vector<std::string> own_command(int argc, const char* const* argv);

}  // namespace flexep
