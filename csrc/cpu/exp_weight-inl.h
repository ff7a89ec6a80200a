// The exponential that turns logits below their largest into weights.
#pragma once
#include <cstdint>

#include "cpu/simd-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

constexpr double kLeastLogit = -80;  // below it no weight matters, and none above is denormal in single precision

// exp(x) for x <= 0 to 3e-13; 0 below kLeastLogit.
inline Vec<double> exp_weight(Vec<double> x) {
  typedef Vec<int64_t> Integers;
  constexpr double kShift = 0x1.8p52, kLog2E = 0x1.71547652b82fep0, kLn2High = 0x1.62e42ff000000p-1,
                   kLn2Low = -0x1.718432a1b0e26p-35;
  const Integers kept = x > kLeastLogit;
  x = kept ? x : splat(kLeastLogit);
  const Vec<double> shifted = multiply_add(x, splat(kLog2E), splat(kShift)), n = shifted - kShift;
  const Vec<double> r = multiply_add(n, splat(-kLn2Low), multiply_add(n, splat(-kLn2High), x));
  // The Taylor series: |r| <= ln(2) / 2, so that r^11 / 11! < 3e-13.
  Vec<double> p = splat(1.0 / 3628800);
  constexpr double kTerms[] = {1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120,
                               1.0 / 24,     1.0 / 6,     0.5,        1.0,       1.0};
  for (double term : kTerms) p = multiply_add(p, r, splat(term));
  const Vec<double> power = (Vec<double>)(((Integers)shifted + 1023) << 52);  // n is in the low bits of `shifted`
  return (Vec<double>)((Integers)(p * power) & kept);
}

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
