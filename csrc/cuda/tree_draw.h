// Draws from trees on a device: a string from a posterior whose inside messages are there.
#pragma once
#include "core/philox.h"
#include "cuda/tree_numbers.h"
#include "cuda/tree_posterior.h"
#include "cuda/tree_rules.h"

namespace biasgen {

// Number i of a sample: word i % 4 of Philox block i // 4, which is kept for the next one.
class Numbers {
 public:
  __device__ Numbers(uint64_t seed, uint64_t sample, uint32_t step, PhiloxPurpose purpose)
      : seed_(seed), sample_(sample), step_(step), purpose_(purpose), block_(~0u), word_{} {}

  __device__ double operator()(int i) {
    const uint32_t block = static_cast<uint32_t>(i) / 4;
    if (block != block_) philox_words(seed_, sample_, step_, purpose_, block, word_);
    block_ = block;
    return uniform(i & 2 ? (i & 1 ? word_[3] : word_[2]) : (i & 1 ? word_[1] : word_[0]));
  }

 private:
  uint64_t seed_, sample_;
  uint32_t step_;
  PhiloxPurpose purpose_;
  uint32_t block_, word_[4];
};

// Index of the first of `count` terms whose running total reaches u of the whole; term(i) is an Entry. In double, so
// that only what the terms carry is lost.
template <typename Term>
__device__ __forceinline__ int pick(double u, int count, Term term) {
  int32_t largest = kNothing;
  for (int i = 0; i < count; ++i) {
    const Entry t = term(i);
    if (t.m > 0) largest = max(largest, t.e);
  }
  double total = 0.0, reached = 0.0;
  for (int i = 0; i < count; ++i) {
    const Entry t = term(i);
    if (t.m > 0) total += t.m * power_of_two(minus(t.e, largest));
  }
  int last = 0;
  for (int i = 0; i < count; ++i) {
    const Entry t = term(i);
    if (!(t.m > 0)) continue;
    reached += t.m * power_of_two(minus(t.e, largest));
    last = i;
    if (u * total <= reached) break;
  }
  return last;
}

// One string from the posterior, from the root down, in place: the nodes of a level lie in the first symbols. Number 0
// draws the root, number 1 + i node i in level order.
__device__ inline void draw_string(const ListedRule* rules, const int32_t* begin, const Entry* inside, int L, int Q,
                                   int samples, TreeDraws draws, int64_t sample, int k, int8_t* symbols) {
  const int message = Q * samples;
  Numbers number(draws.seed, static_cast<uint64_t>(sample), static_cast<uint32_t>(k), kPosterior);
  symbols[0] = static_cast<int8_t>(pick(number(0), Q, [&](int a) { return inside[a * samples]; }));
  for (int nodes = 1; nodes < L; nodes *= 2)
    for (int i = nodes - 1; i >= 0; --i) {
      const int from = begin[symbols[i]], count = begin[symbols[i] + 1] - from;
      const Entry *left = inside + (2 * (nodes + i) - 1) * message, *right = left + message;
      const ListedRule& chosen = rules[from + pick(number(nodes + i), count, [&](int r) {
                                         const ListedRule rule = rules[from + r];
                                         const Entry x = left[rule.first * samples], y = right[rule.second * samples];
                                         return Entry{x.m * y.m * rule.mantissa, plus(plus(x.e, y.e), rule.exponent)};
                                       })];
      symbols[2 * i] = static_cast<int8_t>(chosen.first);
      symbols[2 * i + 1] = static_cast<int8_t>(chosen.second);
    }
}

}  // namespace biasgen
