// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mpi.h"

namespace flexep::testing {

/// Machines that this one plays: network and host name of each are its own (namespaces), and cables join them
/// to a switch. Nothing of it is seen outside, and all of it goes with the object, or with the test's
/// process.
class Machines {
 public:
  /// Why there can be none here; nothing where there can.
  static std::optional<std::string> obstacle();

  /// @param rate  of each cable, as tc spells it ("1gbit"); empty = as fast as it goes.
  explicit Machines(int num_machines, const std::string& rate = "");
  /// Kills everything that runs on them.
  ~Machines();
  Machines(const Machines&) = delete;
  Machines& operator=(const Machines&) = delete;

  /// The command that starts the job from the switch, its ranks spread over the machines, in order.
  std::vector<std::string> command_of(const Mpi& mpi, MpiJob job) const;

  /// Pulls the cable out of the switch.
  void cut_off(int machine) const;
  /// Bytes that have left a machine so far, with the headers of the network.
  std::int64_t num_bytes_sent(int machine) const;

 private:
  struct Namespaces {
    std::string name;
    pid_t holder;  ///< a process that lives in them
  };

  static Namespaces make_namespaces(const std::string& name);
  void run_in(const Namespaces& machine, const std::vector<std::string>& command) const;
  void set_up_switch() const;
  void plug_in(int machine, const std::string& rate) const;

  Namespaces switch_;
  std::vector<Namespaces> machines_;
};

}  // namespace flexep::testing
