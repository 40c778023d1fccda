// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace flexep::tool {

/// What the probes found. What could not be found out is absent, or empty.

struct Cache {
  int level = 0;
  std::string type;                ///< Data, Instruction, Unified
  std::string size;                ///< as the kernel spells it: "32768K"
  std::optional<int> num_sharing;  ///< cores that share one
};

struct CpuFacts {
  std::string model;
  std::optional<int> num_cores;       ///< online, hardware threads
  std::optional<int> num_usable;      ///< that this process may run on
  std::optional<double> quota_cores;  ///< that the control group allows; absent without a limit
  std::vector<Cache> caches;          ///< of the first core
  std::vector<int> numa_cores;        ///< of each node
};

struct MemoryFacts {
  std::optional<std::int64_t> total_kib;
  std::optional<std::int64_t> available_kib;
  std::optional<std::int64_t> limit_bytes;  ///< of the control group
  std::optional<std::string> thp;           ///< always, madvise, never
  std::optional<std::string> thp_shmem;     ///< always, within_size, advise, never, deny, force
  std::optional<std::int64_t> huge_pages;   ///< reserved
  std::optional<std::int64_t> huge_page_kib;
};

/// Absent = without a limit.
struct Limit {
  std::string name;
  std::optional<std::int64_t> soft;
  std::optional<std::int64_t> hard;
};

struct LimitFacts {
  std::optional<Limit> locked_memory;  ///< bytes
  std::optional<Limit> open_files;
  std::optional<Limit> processes;
  std::optional<std::int64_t> max_map_count;  ///< mappings of a process
};

struct NetworkDevice {
  std::string name;
  std::string state;                     ///< up, down, unknown
  std::optional<std::int64_t> megabits;  ///< a second
  std::optional<std::int64_t> mtu;
  bool is_loopback = false;
};

struct InfinibandPort {
  std::string device;
  std::string port;
  std::string state;  ///< "4: ACTIVE"
  std::string rate;   ///< "400 Gb/sec (4X NDR)"
};

struct NetworkFacts {
  std::vector<NetworkDevice> devices;
  std::vector<InfinibandPort> infiniband;
};

struct GpuFacts {
  std::string why_none;  ///< empty when there is one
  std::vector<std::string> names;
  std::vector<std::vector<bool>> can_access;  ///< [n, n], whether one loads and stores the other's memory
};

struct MpiFacts {
  std::vector<std::string> libraries;  ///< "/usr/lib/libmpi.so.40.30.4"
  std::vector<std::string> launchers;  ///< "/usr/bin/mpirun"
};

struct LibraryFacts {
  std::string version;
  std::string cpu_target;  ///< instruction set of the kernels
};

struct MachineFacts {
  std::string kernel;  ///< its release
  CpuFacts cpu;
  MemoryFacts memory;
  LimitFacts limits;
  NetworkFacts network;
  GpuFacts gpu;
  MpiFacts mpi;
  LibraryFacts library;
};

}  // namespace flexep::tool
