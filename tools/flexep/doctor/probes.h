// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "doctor/machine_facts.h"
#include "doctor/machine_root.h"

namespace flexep::tool {

/// Each probe reads one part of a machine and never throws.
CpuFacts probe_cpu(const MachineRoot& root);
MemoryFacts probe_memory(const MachineRoot& root);
LimitFacts probe_limits(const MachineRoot& root);
NetworkFacts probe_network(const MachineRoot& root);

/// `search_path` is what PATH holds.
MpiFacts probe_mpi(const MachineRoot& root, const std::string& search_path);
/// Of this machine, whatever root others read.
GpuFacts probe_gpus();

/// All of them.
MachineFacts probe_machine(const MachineRoot& root, const std::string& search_path);

}  // namespace flexep::tool
