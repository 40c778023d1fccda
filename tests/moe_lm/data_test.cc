// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "flexep/error.h"
#include "moe_lm/batch.h"
#include "moe_lm/corpus.h"
#include "moe_lm/random.h"

namespace moe_lm {
namespace {

Bytes random_text(std::int64_t size) {
  const RandomStream random(3, "text");
  Bytes text(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<std::uint8_t>(random.bits(i) % 256);
  return text;
}

TEST(CorpusTest, HoldsOutASixteenthAndLosesNothing) {
  const Bytes text = random_text(1 << 20);
  const Corpus corpus = split_text(text);
  EXPECT_EQ(corpus.train.size() + corpus.heldout.size(), text.size());
  EXPECT_NEAR(static_cast<double>(corpus.heldout.size()), static_cast<double>(text.size()) / 16, 32.0);
}

TEST(CorpusTest, HeldOutBytesAreTheEndOfABlock) {
  const Bytes text = random_text(64 << 10);
  const Corpus corpus = split_text(text);
  EXPECT_TRUE(std::equal(corpus.train.begin(), corpus.train.end(), text.begin()));
  EXPECT_TRUE(std::equal(corpus.heldout.rbegin(), corpus.heldout.rend(), text.rbegin()));
}

TEST(CorpusTest, ATinyTextIsAnError) {
  EXPECT_THROW(split_text(random_text(100)), flexep::InvalidArgument);
}

TEST(CorpusTest, AMissingFileIsNamed) {
  try {
    read_text({"/nonexistent/text"}, 100);
    FAIL();
  } catch (const flexep::InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find("/nonexistent/text"), std::string::npos);
  }
}

TEST(CorpusTest, TheDefaultTextIsSortedAndBounded) {
  const auto files = default_text_files();
  EXPECT_TRUE(std::is_sorted(files.begin(), files.end()));
  EXPECT_EQ(read_text(files, 100'000).size(), 100'000U);
}

TEST(CorpusTest, UnigramEntropyOfEquallyFrequentBytes) {
  EXPECT_DOUBLE_EQ(unigram_bits_per_byte(Bytes{1, 2, 3, 4, 4, 3, 2, 1}), 2.0);
}

TEST(BatchSamplerTest, RanksShareTheGlobalBatch) {
  const Bytes text = random_text(50'000);
  const BatchSampler sampler(text, 100, /*seed=*/5);
  Batch all;
  sampler.draw(17, {0, 100}, all);
  Bytes joined;
  for (int rank = 0; rank < 3; ++rank) {
    Batch part;
    sampler.draw(17, share_of(100, rank, 3), part);
    joined.insert(joined.end(), part.contexts.begin(), part.contexts.end());
  }
  EXPECT_EQ(joined, all.contexts);
}

TEST(BatchSamplerTest, TheContextIsWhatPrecedesTheTarget) {
  Bytes text(256);
  std::iota(text.begin(), text.end(), std::uint8_t{0});  // so that a byte tells where it stands
  const BatchSampler sampler(text, 8, /*seed=*/5);
  Batch batch;
  sampler.draw(0, {0, 8}, batch);
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < kContextBytes; ++j) {
      const int expected = std::max(0, batch.targets[i] - kContextBytes + j);  // 0 pads, and text[0] is 0
      EXPECT_EQ(batch.contexts[i * kContextBytes + j], expected);
    }
  }
}

TEST(BatchSamplerTest, SampleComesFromItsOwnStrip) {
  Bytes text(256);
  std::iota(text.begin(), text.end(), std::uint8_t{0});
  const BatchSampler sampler(text, 8, /*seed=*/5);
  Batch batch;
  for (int step = 0; step < 20; ++step) {
    sampler.draw(step, {0, 8}, batch);
    for (int i = 0; i < 8; ++i) EXPECT_EQ(batch.targets[i] / 32, i);
  }
}

TEST(BatchSamplerTest, StepsAndSeedsDiffer) {
  const Bytes text = random_text(50'000);
  Batch a, b, c;
  BatchSampler(text, 100, 5).draw(1, {0, 100}, a);
  BatchSampler(text, 100, 5).draw(2, {0, 100}, b);
  BatchSampler(text, 100, 6).draw(1, {0, 100}, c);
  EXPECT_NE(a.contexts, b.contexts);
  EXPECT_NE(a.contexts, c.contexts);
}

TEST(RandomStreamTest, UniformHasTheRightMoments) {
  const RandomStream random(1, "moments");
  double sum = 0, sum_of_squares = 0;
  for (int i = 0; i < 100'000; ++i) {
    const double u = random.uniform(i);
    sum += u;
    sum_of_squares += u * u;
  }
  EXPECT_NEAR(sum / 1e5, 0.5, 0.005);
  EXPECT_NEAR(sum_of_squares / 1e5, 1.0 / 3, 0.005);
}

}  // namespace
}  // namespace moe_lm
