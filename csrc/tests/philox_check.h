// Normals of one instruction set against Philox4x32-10 word by word and the library's logarithm, cosine and sine.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/philox.h"
#include "cpu/philox.h"

namespace biasgen {

// check(holds, what) is called for every number.
template <class Kernel, class Check>
void check_normals(const Kernel& kernel, int64_t n, int64_t blocks, const Check& check) {
  const uint64_t seed = (uint64_t{7} << 32) | 5, first = (uint64_t{1} << 40) - 2;
  std::vector<float> out(n * blocks * 4);
  kernel({n, blocks, seed, first, 9, kReverse, out.data()});
  for (int64_t row = 0; row < n; ++row)
    for (int64_t block = 0; block < blocks; ++block) {
      uint32_t word[4];
      philox_words(seed, first + static_cast<uint64_t>(row), 9, kReverse, static_cast<uint32_t>(block), word);
      for (int pair = 0; pair < 2; ++pair) {
        const double radius = std::sqrt(-2 * std::log(uniform(word[2 * pair])));
        const double angle = 6.283185307179586 * uniform(word[2 * pair + 1]);
        const double want[2] = {radius * std::cos(angle), radius * std::sin(angle)};
        for (int i = 0; i < 2; ++i) {
          const double got = static_cast<double>(out[4 * (row * blocks + block) + 2 * pair + i]);
          check(std::fabs(got - want[i]) <= 0x1p-23 * std::fabs(want[i]), "normals");
        }
      }
    }
}

}  // namespace biasgen
