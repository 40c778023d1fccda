// SPDX-License-Identifier: Apache-2.0
#include "machines.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <stdexcept>

#include "cable.h"

namespace flexep::testing {
namespace {

// /sys shows the network devices of who mounted it, and UCX looks there.
bool mount_own_sys() {
  return mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         mount("sysfs", "/sys", "sysfs", 0, nullptr) == 0;
}

// The life of a holder: it tells by a byte whether it has its namespaces, then waits for its end.
[[noreturn]] void hold_namespaces(const std::string& name, int report) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const bool is_made = unshare(CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWNS) == 0 &&
                       sethostname(name.c_str(), name.size()) == 0 && mount_own_sys();
  const char error = is_made ? '\0' : static_cast<char>(errno);
  if (write(report, &error, 1) != 1) _exit(1);
  for (;;) pause();
}

std::string network_of(const std::string& pid) {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/" + pid + "/ns/net", error).string();
}

std::vector<pid_t> processes_in(const std::string& network) {
  std::vector<pid_t> pids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    const bool is_process = std::ranges::all_of(name, [](unsigned char c) { return std::isdigit(c) != 0; });
    if (is_process && network_of(name) == network) pids.push_back(std::stoi(name));
  }
  return pids;
}

}  // namespace

std::optional<std::string> Machines::obstacle() {
  for (const char* tool : {"ip", "tc", "nsenter"}) {
    if (run_command({"sh", "-c", fmt::format("command -v {}", tool)}).exit_code != 0)
      return fmt::format("there is no {}", tool);
  }
  try {
    const Machines two(2);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return std::nullopt;
}

Machines::Machines(int num_machines, const std::string& rate) : switch_(make_namespaces("switch")) {
  for (int machine = 0; machine < num_machines; ++machine)
    machines_.push_back(make_namespaces(fmt::format("machine{}", machine)));
  set_up_switch();
  for (int machine = 0; machine < num_machines; ++machine) plug_in(machine, rate);
}

Machines::~Machines() {
  machines_.push_back(switch_);
  for (const auto& machine : machines_) {
    // The holder is one of them.
    for (const pid_t pid : processes_in(network_of(std::to_string(machine.holder)))) kill(pid, SIGKILL);
    waitpid(machine.holder, nullptr, 0);
  }
}

Machines::Namespaces Machines::make_namespaces(const std::string& name) {
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
  const pid_t holder = fork();
  if (holder == 0) hold_namespaces(name, report[1]);
  close(report[1]);
  char error = EPIPE;
  const bool has_reported = read(report[0], &error, 1) == 1;
  close(report[0]);
  if (has_reported && error == '\0') return {name, holder};
  kill(holder, SIGKILL);
  waitpid(holder, nullptr, 0);
  throw std::runtime_error(fmt::format("cannot make network namespaces: {}", std::strerror(error)));
}

void Machines::run_in(const Namespaces& machine, const std::vector<std::string>& command) const {
  std::vector<std::string> entered = {"nsenter", "-t", std::to_string(machine.holder), "-n", "-u", "-m"};
  entered.insert(entered.end(), command.begin(), command.end());
  const auto result = run_command(entered);
  if (result.exit_code != 0) {
    throw std::runtime_error(fmt::format("on {}, {}: {}", machine.name, fmt::join(command, " "), result.err));
  }
}

void Machines::set_up_switch() const {
  run_in(switch_, {"ip", "link", "set", "lo", "up"});
  run_in(switch_, {"ip", "link", "add", "bridge", "type", "bridge"});
  run_in(switch_, {"ip", "address", "add", "10.77.0.254/24", "dev", "bridge"});
  run_in(switch_, {"ip", "link", "set", "bridge", "up"});
}

// A cable has an end in the machine and one in the switch; each end is slowed down in its own direction.
void Machines::plug_in(int machine, const std::string& rate) const {
  const Namespaces& own = machines_[static_cast<std::size_t>(machine)];
  const auto port = fmt::format("port{}", machine);
  run_in(switch_, {"ip", "link", "add", port, "type", "veth", "peer", "name", "cable", "netns",
                   std::to_string(own.holder)});
  run_in(switch_, {"ip", "link", "set", port, "master", "bridge", "up"});
  run_in(own, {"ip", "link", "set", "lo", "up"});
  run_in(own, {"ip", "address", "add", fmt::format("10.77.0.{}/24", machine + 1), "dev", "cable"});
  run_in(own, {"ip", "link", "set", "cable", "up"});
  if (rate.empty()) return;
  const auto slow_down = [&](const Namespaces& where, const std::string& device) {
    run_in(where, {"tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", rate, "burst", "1mb",
                   "latency", "50ms"});
  };
  slow_down(own, "cable");
  slow_down(switch_, port);
  // Where the system's choice paces by timers, busy cores leave the cable idle; Reno is always there.
  run_in(own, {"sh", "-c", "echo reno > /proc/sys/net/ipv4/tcp_congestion_control || true"});
}

std::vector<std::string> Machines::command_of(const Mpi& mpi, MpiJob job) const {
  std::vector<std::string> command = {"nsenter", "-t", std::to_string(switch_.holder), "-n", "-u",
                                      "-m",      "env"};
  std::string hosts;
  const int num_per_machine = job.num_ranks / static_cast<int>(machines_.size());
  for (const auto& [name, holder] : machines_) {
    command.push_back(fmt::format("HOLDER_OF_{}={}", name, holder));
    hosts += fmt::format("{}{}:{}", hosts.empty() ? "" : ",", name, num_per_machine);
  }
  // UCX, under MPICH, would see that the machines are one and use its memory.
  command.emplace_back("UCX_TLS=tcp,self");
  std::vector<std::string> options =
      mpi.is_open_mpi()
          ? std::vector<std::string>{"--mca", "plm_rsh_agent", MPI_ENTER_MACHINE, "--host", hosts}
          : std::vector<std::string>{"-launcher", "rsh", "-launcher-exec", MPI_ENTER_MACHINE,
                                     "-hosts",    hosts, "-iface",         "bridge"};
  job.options.insert(job.options.begin(), options.begin(), options.end());
  const auto start = flexep::testing::command_of(mpi, job);
  command.insert(command.end(), start.begin(), start.end());
  return command;
}

void Machines::cut_off(int machine) const {
  run_in(switch_, {"ip", "link", "set", fmt::format("port{}", machine), "down"});
}

std::int64_t Machines::num_bytes_sent(int machine) const {
  return num_bytes_sent_from_machine_of(std::to_string(machines_[static_cast<std::size_t>(machine)].holder));
}

}  // namespace flexep::testing
