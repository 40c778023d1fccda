// SPDX-License-Identifier: Apache-2.0
//
// Probes over trees of files, whole, empty and broken; findings and choices over facts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "doctor/diagnosis.h"
#include "doctor/doctor_report.h"
#include "doctor/probes.h"

namespace flexep::tool {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// A folder that stands for the root of a machine.
class MachineTree {
 public:
  MachineTree()
      : root_(std::filesystem::temp_directory_path() / ("flexep_doctor_" + std::to_string(getpid()))) {
    std::filesystem::create_directories(root_);
  }
  ~MachineTree() { std::filesystem::remove_all(root_); }

  void add(const std::string& file, const std::string& text) const {
    std::filesystem::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }
  void add_folder(const std::string& folder) const { std::filesystem::create_directories(root_ / folder); }
  MachineRoot root() const { return MachineRoot(root_); }

 private:
  std::filesystem::path root_;
};

constexpr const char* kLimits =
    "Limit                     Soft Limit           Hard Limit           Units     \n"
    "Max processes             unlimited            unlimited            processes \n"
    "Max open files            1024                 524288               files     \n"
    "Max locked memory         8388608              unlimited            bytes     \n";

std::vector<std::string> whats(const MachineFacts& facts) {
  std::vector<std::string> all;
  for (const Finding& finding : findings_of(facts)) {
    EXPECT_FALSE(finding.remedy.empty());
    all.push_back(finding.what);
  }
  return all;
}

TEST(DoctorProbeTest, ReadsTheProcessor) {
  const MachineTree tree;
  tree.add("proc/cpuinfo", "processor\t: 0\nmodel name\t: Some processor\nmodel name\t: other\n");
  tree.add("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-3,8\n");
  tree.add("sys/devices/system/cpu/online", "0-15\n");
  tree.add("sys/devices/system/cpu/cpu0/cache/index0/level", "1\n");
  tree.add("sys/devices/system/cpu/cpu0/cache/index0/type", "Data\n");
  tree.add("sys/devices/system/cpu/cpu0/cache/index0/size", "32K\n");
  tree.add("sys/devices/system/cpu/cpu0/cache/index0/shared_cpu_list", "0,16\n");
  tree.add("sys/devices/system/node/node0/cpulist", "0-7\n");
  tree.add("sys/devices/system/node/node1/cpulist", "\n");
  tree.add("sys/devices/system/node/has_cpu", "0\n");
  tree.add("sys/fs/cgroup/cpu.max", "150000 100000\n");
  const CpuFacts cpu = probe_cpu(tree.root());
  EXPECT_EQ(cpu.model, "Some processor");
  EXPECT_EQ(cpu.num_cores, 16);
  EXPECT_EQ(cpu.num_usable, 5);
  EXPECT_EQ(cpu.quota_cores, 1.5);
  ASSERT_EQ(cpu.caches.size(), 1u);
  EXPECT_EQ(cpu.caches[0].size, "32K");
  EXPECT_EQ(cpu.caches[0].num_sharing, 2);
  EXPECT_THAT(cpu.numa_cores, ElementsAre(8, 0));
  EXPECT_EQ(num_effective_cores(cpu), 1);
}

TEST(DoctorProbeTest, ReadsMemoryAndLimits) {
  const MachineTree tree;
  tree.add("proc/meminfo",
           "MemTotal:       1000 kB\nMemAvailable:  500 kB\nHugePages_Total:   4\nHugepagesize: 2048 kB\n");
  tree.add("sys/kernel/mm/transparent_hugepage/shmem_enabled",
           "always within_size advise [never] deny force\n");
  tree.add("sys/fs/cgroup/memory.max", "max\n");
  tree.add("proc/self/limits", kLimits);
  const MemoryFacts memory = probe_memory(tree.root());
  EXPECT_EQ(memory.total_kib, 1000);
  EXPECT_EQ(memory.available_kib, 500);
  EXPECT_EQ(memory.limit_bytes, std::nullopt);
  EXPECT_EQ(memory.thp_shmem, "never");
  EXPECT_EQ(memory.huge_pages, 4);
  const LimitFacts limits = probe_limits(tree.root());
  EXPECT_EQ(limits.open_files->soft, 1024);
  EXPECT_EQ(limits.open_files->hard, 524288);
  EXPECT_EQ(limits.locked_memory->soft, 8388608);
  EXPECT_EQ(limits.locked_memory->hard, std::nullopt);
  ASSERT_TRUE(limits.processes);
  EXPECT_EQ(limits.processes->soft, std::nullopt);
}

TEST(DoctorProbeTest, ReadsNetworksAndMpi) {
  const MachineTree tree;
  tree.add("sys/class/net/eth0/speed", "25000\n");
  tree.add("sys/class/net/eth0/operstate", "up\n");
  tree.add("sys/class/net/eth0/mtu", "1500\n");
  tree.add("sys/class/net/eth1/speed", "-1\n");
  tree.add("sys/class/net/lo/type", "772\n");
  tree.add("sys/class/net/bonding_masters", "\n");
  tree.add("sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n");
  tree.add("sys/class/infiniband/mlx5_0/ports/1/rate", "400 Gb/sec (4X NDR)\n");
  tree.add("usr/lib/x86_64-linux-gnu/libmpi.so.40", "");
  tree.add("usr/lib/x86_64-linux-gnu/libmpi.so.40.30.4", "");
  tree.add("usr/bin/mpirun", "");
  const NetworkFacts network = probe_network(tree.root());
  ASSERT_EQ(network.devices.size(), 3u);
  EXPECT_EQ(network.devices[0].megabits, 25000);
  EXPECT_EQ(network.devices[1].megabits, std::nullopt);
  EXPECT_TRUE(network.devices[2].is_loopback);
  ASSERT_EQ(network.infiniband.size(), 1u);
  EXPECT_EQ(network.infiniband[0].state, "4: ACTIVE");
  const MpiFacts mpi = probe_mpi(tree.root(), "/no/such::/usr/bin");
  EXPECT_THAT(mpi.libraries, ElementsAre("/usr/lib/x86_64-linux-gnu/libmpi.so.40.30.4"));
  EXPECT_THAT(mpi.launchers, ElementsAre("/usr/bin/mpirun"));
}

TEST(DoctorProbeTest, AnEmptyMachineIsAllUnknown) {
  const MachineTree tree;
  const MachineFacts facts = probe_machine(tree.root(), "/usr/bin");
  EXPECT_EQ(facts.cpu.num_cores, std::nullopt);
  EXPECT_EQ(facts.memory.thp, std::nullopt);
  EXPECT_FALSE(facts.limits.open_files);
  EXPECT_THAT(facts.network.devices, IsEmpty());
  EXPECT_THAT(text_of(facts), HasSubstr("unknown"));
  EXPECT_TRUE(json_of(facts)["cpu"]["num_cores"].is_null());
  EXPECT_EQ(num_effective_cores(facts.cpu), 1);
}

TEST(DoctorProbeTest, BrokenFilesAreAsIfTheyWereNotThere) {
  const MachineTree tree;
  const std::string garbage("\xff\xfe[ 7-3,,x\n\0max", 16);
  for (const char* file :
       {"proc/cpuinfo", "proc/meminfo", "proc/self/limits", "proc/self/status",
        "sys/devices/system/cpu/online", "sys/devices/system/cpu/cpu0/cache/index0/level",
        "sys/devices/system/node/nodeX/cpulist", "sys/kernel/mm/transparent_hugepage/shmem_enabled",
        "sys/fs/cgroup/cpu.max", "sys/fs/cgroup/memory.max", "sys/class/net/eth0/speed",
        "sys/class/net/eth0/mtu", "proc/sys/vm/max_map_count"}) {
    tree.add(file, garbage);
  }
  tree.add_folder("proc/sys/kernel/osrelease");
  tree.add("sys/class/infiniband", "not a folder");
  tree.add("proc/self/limits", "Max open files");
  const MachineFacts facts = probe_machine(tree.root(), "/usr/bin");
  EXPECT_EQ(facts.cpu.num_cores, std::nullopt);
  EXPECT_EQ(facts.cpu.quota_cores, std::nullopt);
  EXPECT_EQ(facts.memory.thp_shmem, std::nullopt);
  EXPECT_FALSE(facts.limits.open_files);
  EXPECT_EQ(facts.network.devices[0].megabits, std::nullopt);
  EXPECT_THAT(text_of(facts), HasSubstr("eth0"));
  EXPECT_NO_THROW(json_of(facts).dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

TEST(DoctorProbeTest, ListsOfCores) {
  EXPECT_EQ(size_of_list("0"), 1);
  EXPECT_EQ(size_of_list("0-3,8,10-11"), 7);
  for (const char* wrong : {"", "x", "3-1", "-1", "0-", "1,,2", "0-99999999999"})
    EXPECT_EQ(size_of_list(wrong), std::nullopt) << wrong;
}

TEST(DoctorFindingTest, AMachineOfWhichNothingIsKnownOnlyLacksMpi) {
  EXPECT_THAT(whats({}), ElementsAre(HasSubstr("MPI")));
}

TEST(DoctorFindingTest, EachThingThatHurtsIsSaid) {
  MachineFacts facts;
  facts.cpu = {.num_cores = 8, .num_usable = 8, .quota_cores = 1.5, .numa_cores = {4, 4}};
  facts.library.cpu_target = "scalar";
  facts.memory = {.total_kib = 1 << 20, .available_kib = 1000, .limit_bytes = 1 << 20, .thp_shmem = "never"};
  facts.limits.open_files = Limit{"Max open files", 256, 1024};
  facts.limits.max_map_count = 1000;
  facts.limits.locked_memory = Limit{"Max locked memory", 65536, 65536};
  facts.network.infiniband = {{"mlx5_0", "1", "1: DOWN", "10 Gb/sec"}};
  facts.network.devices = {{.name = "eth0", .state = "up", .megabits = 1000},
                           {.name = "eth1", .state = "up", .megabits = 100000, .mtu = 1500},
                           {.name = "eth2", .state = "down", .megabits = 10}};
  facts.mpi = {{"/usr/lib/libmpi.so.40"}, {}};
  facts.gpu = {"", {"A", "B"}, {{true, false}, {true, true}}};
  const auto all = whats(facts);
  EXPECT_EQ(all.size(), 14u);
  for (const char* part :
       {"control group allows 1.5 of the 8", "2 NUMA nodes", "without vectors", "shmem_enabled",
        "MiB of memory are available", "kills who exceeds it", "256 files", "1000 mappings", "lock 64 KiB",
        "mlx5_0 port 1 is not active", "eth0 has 1000", "packets of 1500", "no mpirun", "GPU 0 and GPU 1"}) {
    EXPECT_THAT(all, Contains(HasSubstr(part)));
  }
}

TEST(DoctorFindingTest, AMachineInOrderHasNone) {
  MachineFacts facts;
  facts.cpu = {.num_cores = 8, .num_usable = 8, .numa_cores = {8}};
  facts.library.cpu_target = "avx512";
  facts.memory = {.total_kib = 1 << 24, .available_kib = 1 << 23, .thp_shmem = "advise"};
  facts.limits.open_files = Limit{"Max open files", 1 << 20, 1 << 20};
  facts.network.infiniband = {{"mlx5_0", "1", "4: ACTIVE", "400 Gb/sec"}};
  facts.network.devices = {{.name = "eth0", .state = "up", .megabits = 1000}};
  facts.limits.locked_memory = Limit{"Max locked memory", std::nullopt, std::nullopt};
  facts.mpi = {{"/usr/lib/libmpi.so.40"}, {"/usr/bin/mpirun"}};
  facts.gpu.why_none = "this build has no CUDA backend";
  EXPECT_THAT(whats(facts), IsEmpty());
  EXPECT_THAT(text_of(facts), HasSubstr("Nothing found that will hurt"));
}

TEST(DoctorChoiceTest, ThreadsAreTheCoresOverTheRanks) {
  MachineFacts facts;
  facts.cpu.num_usable = 4;
  EXPECT_THAT(choices_of(facts),
              Contains(Field(&Choice::chosen, "4 with 1 rank, 2 with 2 ranks, 1 with 4 ranks")));
}

}  // namespace
}  // namespace flexep::tool
