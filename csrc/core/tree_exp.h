// The exponential of a leaf, split into mantissa and exponent: exp(f) = 2^g * 2^n, where f * log2(e) = g + n.
#pragma once

#if defined(__CUDACC__)
#define BIASGEN_HOST_DEVICE __host__ __device__
#else
#define BIASGEN_HOST_DEVICE
#endif

namespace biasgen {

constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;

// 2^g for 0 <= g <= 1, relative error below 1e-7, exact at both ends. Coefficients: fit_exp.py. V: float or a vector of
// floats; multiply_add(a, b, c) = a * b + c, fused where that is one instruction.
template <typename V, typename MultiplyAdd>
BIASGEN_HOST_DEVICE static inline V exp2_mantissa(V g, MultiplyAdd multiply_add) {
  V p = V{} + 0.00021612915f;
  p = multiply_add(p, g, V{} + 0.0012467847f);
  p = multiply_add(p, g, V{} + 0.009675452f);
  p = multiply_add(p, g, V{} + 0.055485282f);
  p = multiply_add(p, g, V{} + 0.24022931f);
  p = multiply_add(p, g, V{} + 0.69314706f);
  return multiply_add(p, g, V{} + 1.0f);
}

}  // namespace biasgen
