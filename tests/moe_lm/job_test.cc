// SPDX-License-Identifier: Apache-2.0
#include "job.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

namespace moe_lm {
namespace {

using Json = nlohmann::json;
using Arguments = std::vector<std::string>;

const Arguments kSmall = {"--hidden-size", "64",      "--moe-ffn-hidden-size", "64", "--batch", "256",
                          "--text-bytes",  "1000000", "--heldout-samples",     "512"};

Arguments operator+(Arguments a, const Arguments& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// Runs the job and returns what it wrote to --json.
Json result_of(const Arguments& arguments) {
  const std::string file = ::testing::TempDir() + "moe_lm_job_test_" + std::to_string(getpid()) + ".json";
  Job job(kSmall + arguments + Arguments{"--json", file});
  EXPECT_EQ(job.wait(), 0) << job.err();
  std::ifstream in(file);
  Json result = Json::parse(in, nullptr, /*allow_exceptions=*/false);
  std::filesystem::remove(file);
  return result;
}

/// Everything that must not depend on when and where a job ran.
Json outcome_of(Json result) {
  for (const char* name : {"config", "tokens_per_s"}) result.erase(name);
  return result;
}

TEST(JobTest, RepeatsBitForBitOnAnyTransport) {
  const Arguments arguments = {"--ranks", "4", "--steps", "20", "--seed", "5"};
  const Json first = result_of(arguments + Arguments{"--transport", "shm"});
  const Json second = result_of(arguments + Arguments{"--transport", "shm"});
  const Json threads = result_of(arguments + Arguments{"--transport", "in_process"});
  EXPECT_EQ(first["train_loss"].size(), 20U);
  EXPECT_EQ(outcome_of(first), outcome_of(second));
  EXPECT_EQ(outcome_of(first), outcome_of(threads));
}

TEST(JobTest, OnAGpuItLearnsWhatItLearnsOnTheCpu) {
  const Arguments on_gpu = {"--device", "cuda"};
  Job probe(kSmall + on_gpu + Arguments{"--ranks", "1", "--steps", "1", "--transport", "in_process"});
  if (probe.wait() != 0 && probe.err().find("--device cuda: ") != std::string::npos)
    GTEST_SKIP() << probe.err();
  const Arguments arguments = {"--ranks", "2", "--steps", "20"};
  const auto expected = result_of(arguments)["train_loss"].get<std::vector<double>>();
  for (const char* transport : {"shm", "in_process"}) {
    const auto result = result_of(arguments + on_gpu + Arguments{"--transport", transport});
    const auto losses = result["train_loss"].get<std::vector<double>>();
    ASSERT_EQ(losses.size(), expected.size());
    for (std::size_t step = 0; step < losses.size(); ++step)
      EXPECT_NEAR(losses[step], expected[step], 1e-4) << transport << ", step " << step;
  }
}

TEST(JobTest, AnotherSeedIsAnotherRun) {
  const Arguments arguments = {"--ranks", "2", "--steps", "2"};
  EXPECT_NE(result_of(arguments + Arguments{"--seed", "1"})["train_loss"],
            result_of(arguments + Arguments{"--seed", "2"})["train_loss"]);
}

TEST(JobTest, ReportsWhatTheManualPromises) {
  const Json result =
      result_of({"--ranks", "2", "--steps", "40", "--moe-router-topk", "3", "--moe-aux-loss-coeff", "0.2"});
  EXPECT_EQ(result["config"]["ranks"], 2);
  EXPECT_EQ(result["config"]["moe"]["moe_router_topk"], 3);
  EXPECT_EQ(result["config"]["moe"]["moe_aux_loss_coeff"], 0.2);
  EXPECT_EQ(result["train_loss"].size(), 40U);
  EXPECT_EQ(result["heldout_bpb_curve"].size(), 20U);
  EXPECT_EQ(result["heldout_bpb_curve"].back(), result["heldout_bpb"]);
  EXPECT_GT(result["tokens_per_s"], 0);
  EXPECT_GE(result["expert_load_max_over_mean"], 1);
  for (const char* name :
       {"unigram_bpb", "heldout_bpb", "ablation_zero_moe_bpb", "ablation_shuffled_experts_bpb"}) {
    EXPECT_GT(result[name], 0) << name;
    EXPECT_LT(result[name], 16) << name;
  }
}

TEST(JobTest, TrainsWithoutLoadBalancing) {
  const Json result = result_of({"--ranks", "2", "--steps", "2", "--moe-router-load-balancing-type", "none"});
  EXPECT_EQ(result["config"]["moe"]["moe_aux_loss_coeff"], 0.0);
}

TEST(JobTest, ReadsAnyTextFile) {
  const std::string file = ::testing::TempDir() + "moe_lm_text_" + std::to_string(getpid()) + ".txt";
  {
    std::ofstream out(file);
    for (int i = 0; i < 1000; ++i) out << "so many words, so little sense\n";
  }
  const Json result = result_of({"--ranks", "2", "--steps", "40", "--learning-rate", "0.05", "--text", file});
  EXPECT_EQ(result["config"]["text"], Json::array({file}));
  EXPECT_LT(result["heldout_bpb"], result["unigram_bpb"]);
  std::filesystem::remove(file);
}

TEST(JobTest, ADeadRankEndsTheOthersWhoNameIt) {
  Job job(kSmall + Arguments{"--ranks", "4", "--steps", "1000000"});
  ASSERT_TRUE(job.wait_for_output("50/1000000")) << job.err();
  std::string job_id;
  pid_t victim = 0;
  for (const JobProcess& process : job.processes()) {
    const auto rank = process.environment.find("RANK");
    if (rank == process.environment.end() || rank->second != "2") continue;
    victim = process.pid;
    job_id = process.environment.at("FLEXEP_JOB_ID");
  }
  ASSERT_NE(victim, 0);
  ASSERT_EQ(kill(victim, SIGKILL), 0);

  EXPECT_EQ(job.wait(), 128 + SIGKILL);
  for (const char* survivor : {"rank 0: ", "rank 1: ", "rank 3: "}) {
    std::istringstream lines(job.err());
    int num_lines = 0;
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with(survivor) && line.find("rank 2", 1) != std::string::npos) ++num_lines;
    }
    EXPECT_EQ(num_lines, 1) << survivor << "\n" << job.err();
  }
  EXPECT_TRUE(job.processes().empty());
  std::ifstream sockets("/proc/net/unix");
  const std::string all_sockets((std::istreambuf_iterator<char>(sockets)), {});
  EXPECT_EQ(all_sockets.find(job_id.substr(0, 32)), std::string::npos);
}

struct Mistake {
  Arguments arguments;
  std::string named;
};

TEST(JobTest, AUsageErrorNamesTheOption) {
  const std::vector<Mistake> mistakes = {
      {{"--no-such-option"}, "--no-such-option"},
      {{"--steps", "0"}, "--steps"},
      {{"--ranks", "0"}, "--ranks"},
      {{"--transport", "pigeon"}, "--transport"},
      {{"--text", "/nonexistent"}, "--text"},
      {{"--text", "/dev/null"}, "--text"},
      {{"--json", "/nonexistent/result.json"}, "--json"},
      {{"--moe-router-topk", "99"}, "moe_router_topk"},
      {{"--moe-router-topk", "many"}, "moe-router-topk"},
      {{"--moe-router-score-function", "vote"}, "moe-router-score-function"},
      {{"--ranks", "3"}, "num_moe_experts"},
  };
  for (const Mistake& mistake : mistakes) {
    Job job(mistake.arguments);
    EXPECT_EQ(job.wait(), 2) << mistake.named;
    EXPECT_NE(job.err().find(mistake.named), std::string::npos)
        << mistake.named << " is not in: " << job.err();
    EXPECT_EQ(job.err().find('\n'), job.err().size() - 1) << "one line: " << job.err();
  }
}

TEST(JobTest, HelpListsTheMoeOptions) {
  Job job({"--help"});
  EXPECT_EQ(job.wait(), 0);
  for (const char* flag : {"--text", "--moe-router-topk", "--moe-permute-fusion", "--num-moe-experts"}) {
    EXPECT_NE(job.out().find(flag), std::string::npos) << flag;
  }
}

}  // namespace
}  // namespace moe_lm
