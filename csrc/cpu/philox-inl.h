// Standard normals by Philox4x32-10 and Box-Muller in double: one source for every instruction set. Plain loops over
// kBlocks blocks, which compilers turn into vectors; nothing is fused, so the numbers are the same at every level.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/philox.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

constexpr int kBlocks = 64;

struct Words {
  uint32_t word[4][kBlocks];
};

// Ten rounds on counters (block, step, sample low, sample high | purpose << 16).
inline void rounds(uint64_t seed, Words& c) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kBlocks; ++i) {
      const uint64_t product0 = uint64_t{0xD2511F53} * c.word[0][i], product1 = uint64_t{0xCD9E8D57} * c.word[2][i];
      c.word[0][i] = static_cast<uint32_t>(product1 >> 32) ^ c.word[1][i] ^ key0;
      c.word[2][i] = static_cast<uint32_t>(product0 >> 32) ^ c.word[3][i] ^ key1;
      c.word[1][i] = static_cast<uint32_t>(product1);
      c.word[3][i] = static_cast<uint32_t>(product0);
    }
    key0 += 0x9E3779B9, key1 += 0xBB67AE85;
  }
}

// (word + 1/2) / 2^32, exact; by way of signed integers, which every instruction set converts.
inline double uniform(uint32_t word) {
  return (static_cast<double>(static_cast<int32_t>(word ^ 0x80000000u)) + 2147483648.5) * 0x1p-32;
}

// Natural logarithm of 2^-33 <= u < 1: u = 2^e m with m within sqrt(2) of 1, log(m) = 2 artanh(s), s = (m - 1) / (m +
// 1), as its power series; the first term left out is below 1e-17 of the sum.
inline double log_of(double u) {
  uint64_t bits;
  std::memcpy(&bits, &u, sizeof bits);
  const int32_t e = static_cast<int32_t>(static_cast<uint32_t>(bits >> 32) - 0x3FE6A09Eu) >> 20;  // above sqrt(1/2)
  bits -= static_cast<uint64_t>(static_cast<int64_t>(e)) << 52;
  double m;
  std::memcpy(&m, &bits, sizeof m);
  const double s = (m - 1) / (m + 1), y = s * s;
  double p = 1.0 / 21;
  p = p * y + 1.0 / 19;
  p = p * y + 1.0 / 17;
  p = p * y + 1.0 / 15;
  p = p * y + 1.0 / 13;
  p = p * y + 1.0 / 11;
  p = p * y + 1.0 / 9;
  p = p * y + 1.0 / 7;
  p = p * y + 1.0 / 5;
  p = p * y + 1.0 / 3;
  return e * 0.6931471805599453 + (2 * s + 2 * s * (y * p));
}

// Cosine and sine of an angle at most pi / 4 away from 0, by their power series.
inline double near_cosine(double x) {
  const double y = x * x;
  double p = 1.0 / 20922789888000;
  p = p * y - 1.0 / 87178291200;
  p = p * y + 1.0 / 479001600;
  p = p * y - 1.0 / 3628800;
  p = p * y + 1.0 / 40320;
  p = p * y - 1.0 / 720;
  p = p * y + 1.0 / 24;
  return 1 - y * (0.5 - y * p);
}

inline double near_sine(double x) {
  const double y = x * x;
  double p = -1.0 / 1307674368000;
  p = p * y + 1.0 / 6227020800;
  p = p * y - 1.0 / 39916800;
  p = p * y + 1.0 / 362880;
  p = p * y - 1.0 / 5040;
  p = p * y + 1.0 / 120;
  p = p * y - 1.0 / 6;
  return x + x * (y * p);
}

// z0, z1 of word pairs. The angle is the double that NumPy would take, less the nearest multiple of pi / 2, whose first
// part has 33 bits: the numbers then agree with NumPy's near the zeros of the cosine, too.
inline void box_muller(const uint32_t* word0, const uint32_t* word1, float* z0, float* z1) {
  for (int i = 0; i < kBlocks; ++i) {
    const double radius = std::sqrt(-2.0 * log_of(uniform(word0[i])));
    const double angle = 6.283185307179586 * uniform(word1[i]);
    const int32_t quadrant = static_cast<int32_t>((word1[i] >> 29) + 1) >> 1;  // 0 .. 4
    const double turns = quadrant;
    const double x = (angle - turns * 1.57079632673412561417) - turns * 6.07710050650619224932e-11;
    const double cosine = near_cosine(x), sine = near_sine(x);
    const double along = quadrant & 1 ? sine : cosine, across = quadrant & 1 ? cosine : sine;
    z0[i] = static_cast<float>(radius * (((quadrant + 1) & 2) ? -along : along));
    z1[i] = static_cast<float>(radius * ((quadrant & 2) ? -across : across));
  }
}

}  // namespace

void philox_normals(const NormalRows& rows) {
  const int64_t total = rows.n * rows.blocks;
  int64_t row = 0, block = 0;  // of the next counter
  for (int64_t start = 0; start < total; start += kBlocks) {
    Words words;
    for (int i = 0; i < kBlocks; ++i) {
      const uint64_t sample = rows.first + static_cast<uint64_t>(row);
      words.word[0][i] = static_cast<uint32_t>(block);
      words.word[1][i] = rows.step;
      words.word[2][i] = static_cast<uint32_t>(sample);
      words.word[3][i] = static_cast<uint32_t>(sample >> 32) | rows.purpose << 16;
      if (++block == rows.blocks) block = 0, ++row;
    }
    rounds(rows.seed, words);
    float z[4][kBlocks], ordered[4 * kBlocks];
    box_muller(words.word[0], words.word[1], z[0], z[1]);
    box_muller(words.word[2], words.word[3], z[2], z[3]);
    for (int i = 0; i < kBlocks; ++i)
      for (int word = 0; word < 4; ++word) ordered[4 * i + word] = z[word][i];
    const int64_t left = total - start < kBlocks ? total - start : kBlocks;
    std::memcpy(rows.out + 4 * start, ordered, static_cast<size_t>(left) * 4 * sizeof(float));
  }
}

}  // namespace BIASGEN_ISA
}  // namespace biasgen
