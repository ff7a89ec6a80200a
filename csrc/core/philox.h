// Counter-based random numbers, the same as biasgen/ops/philox.py: integers to the bit, normals within 4 ulp (there
// evaluated in float64, here in float32).
#pragma once
#include <cmath>
#include <cstdint>

#include "core/tree_exp.h"

namespace biasgen {

enum PhiloxPurpose : uint32_t { kData, kStart, kForward, kReverse, kTime, kPosterior };

// Words 4 block .. 4 block + 3 of a sample: Philox4x32-10.
BIASGEN_HOST_DEVICE static inline void philox_words(uint64_t seed, uint64_t sample, uint32_t step, uint32_t purpose,
                                                    uint32_t block, uint32_t (&word)[4]) {
  uint32_t c0 = block, c1 = step, c2 = static_cast<uint32_t>(sample);
  uint32_t c3 = static_cast<uint32_t>(sample >> 32) | purpose << 16;
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * c0, product1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ key0;
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ key1;
    c1 = static_cast<uint32_t>(product1);
    c3 = static_cast<uint32_t>(product0);
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  word[0] = c0, word[1] = c1, word[2] = c2, word[3] = c3;
}

// (word + 1/2) / 2^32, exact.
BIASGEN_HOST_DEVICE static inline double uniform(uint32_t word) { return (word + 0.5) * 0x1p-32; }

// sqrt(-2 log u) for u = (word + 1/2) / 2^32. log(u) = e log(2) + log(m) with m near 1; above 1/2 from 1 - u, which is
// as exact as u. Coefficients: fit_normal.py.
BIASGEN_HOST_DEVICE static inline float normal_radius(uint32_t word) {
  const bool upper = word >> 31;
  const float from_end = (static_cast<float>(upper ? ~word : word) + 0.5f) * 0x1p-32f;  // u or 1 - u, at most 1/2
  int e = 0;
  float m = std::frexp(from_end, &e);
  if (m < 0.70710678f) m *= 2, --e;
  const float s = upper ? -from_end / (2 - from_end) : (m - 1) / (m + 1), y = s * s;
  float p = fmaf(0.11612164f, y, 0.10853288f);
  p = fmaf(p, y, 0.14296179f);
  p = fmaf(p, y, 0.19999853f);
  p = fmaf(p, y, 0.33333334f);
  const float log_m = fmaf(2 * s, p * y, 2 * s);
  return sqrtf(-2 * (upper ? log_m : fmaf(static_cast<float>(e), 0.69314718f, log_m)));
}

// Elements 2 i and 2 i + 1 from words 2 i and 2 i + 1, by Box-Muller. The angle 2 pi (word + 1/2) / 2^32 is taken from
// the nearest multiple of pi / 2, in integers.
BIASGEN_HOST_DEVICE static inline void normal_pair(uint32_t word0, uint32_t word1, float& z0, float& z1) {
  const uint32_t quadrant = (word1 + 0x20000000u) >> 30;
  const int32_t twice = 2 * static_cast<int32_t>(word1 - (quadrant << 30)) + 1;
  const float x = static_cast<float>(twice) * 7.3145906e-10f, y = x * x;  // pi / 2^32
  float p = fmaf(-0.0001958789f, y, 0.008332748f);
  p = fmaf(p, y, -0.16666664f);
  const float sine = fmaf(x, p * y, x);
  p = fmaf(2.4463789e-05f, y, -0.0013887589f);
  p = fmaf(p, y, 0.04166665f);
  const float cosine = fmaf(y, fmaf(p, y, -0.5f), 1.0f);
  const float radius = normal_radius(word0);
  const bool swap = quadrant & 1;
  const float c = radius * (swap ? sine : cosine), s = radius * (swap ? cosine : sine);
  z0 = quadrant == 1 || quadrant == 2 ? -c : c;
  z1 = quadrant == 2 || quadrant == 3 ? -s : s;
}

}  // namespace biasgen
