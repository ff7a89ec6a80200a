// Numbers mantissa * 2^exponent of the tree kernels, and how a leaf's field becomes a message of them.
//
// Exponents are int32 and messages are not normalized. A message's exponents are below 2^7 (rule weights sum to 1, a
// leaf's largest entry is 1) and above -(spread of its leaves + 1075 for every weight on the way); with kMaxSpread for
// a sample and 1024 leaves, every sum of them, and its distance from any other, fits.
#pragma once
#include <cmath>
#include <cstdint>

#include "core/launch.h"
#include "core/tree_exp.h"

namespace biasgen {

constexpr double kMaxSpread = 1 << 30;  // bits, summed over the leaves of a sample; as csrc/cpu/tree_posterior.h

// Zero is mantissa 0, exponent 0; its exponent takes part in nothing.
struct Entry {
  float m;
  int32_t e;
};

// Stands for the exponent of a zero in a maximum: below every true one, and far enough from the end of int32 to be
// subtracted.
constexpr int32_t kNothing = -(3 << 29);

// 2^k for k <= 127; 0 below 2^-126. Integer instructions: they have four times the rate of ex2.
__device__ __forceinline__ float power_of_two(int32_t k) {
  return __int_as_float(static_cast<int32_t>((static_cast<uint32_t>(max(k, -127)) << 23) + 0x3f800000u));
}

// Sums that wrap: those of a refused sample may.
__device__ __forceinline__ int32_t plus(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}
__device__ __forceinline__ int32_t minus(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) - static_cast<uint32_t>(b));
}

// value * 2^e, value 0 or a positive normal number, with its mantissa in [1, 2).
__device__ __forceinline__ Entry split(float value, int32_t e) {
  const int32_t bits = __float_as_int(value);
  const bool live = value > 0;
  return {live ? __int_as_float((bits & 0x7fffff) | 0x3f800000) : 0.0f, live ? plus(e, (bits >> 23) - 127) : 0};
}

struct MultiplyAdd {
  __host__ __device__ float operator()(float a, float b, float c) const { return fmaf(a, b, c); }
};

// What leaves add up to. In double, and with what rounding took: fields of opposite sign on different leaves cancel,
// and log_z must not notice.
struct LeafSums {
  double top, top_error;  // of the largest fields
  double spread;          // bits; +inf where a field is NaN or +inf
};

__device__ __forceinline__ LeafSums add(const LeafSums& a, const LeafSums& b) {
  const double sum = a.top + b.top, part = sum - a.top;
  return {sum, a.top_error + b.top_error + ((a.top - (sum - part)) + (b.top - part)), a.spread + b.spread};
}

// exp(field - largest field) of one symbol, in double until the fraction is left: a field of 1e5 leaves float32 none.
// The largest is -inf for a leaf without symbols. Fields below kMaxSpread are cut there: such a sample is refused.
__device__ __forceinline__ Entry leaf_entry(double field, double largest, double& low) {
  const bool allowed = field > -INFINITY;
  const double exact = allowed ? (field - largest) * kLog2E : 0.0;
  low = exact < low ? exact : low;
  const double bits = exact > -kMaxSpread ? exact : -kMaxSpread;
  const int32_t whole = static_cast<int32_t>(bits) - 1;  // truncation of bits <= 0 is upward
  const float fraction = static_cast<float>(bits - whole);
  return {allowed ? exp2_mantissa(fraction, MultiplyAdd{}) : 0.0f, allowed ? whole : 0};
}

// Sums of one leaf, from its largest field, its lowest in bits (<= 0) and whether all its fields are below +inf.
__device__ __forceinline__ LeafSums leaf_sums(double largest, double low, bool sound) {
  return {largest > -INFINITY ? largest : 0.0, 0.0, sound ? -low : static_cast<double>(INFINITY)};
}

// Marginal m * 2^e * one_over_z * 2^-z_exponent: below 2^-126, and without a sum, 0.
__device__ __forceinline__ float marginal(float m, int32_t e, float one_over_z, int32_t z_exponent) {
  if (!(m > 0)) return 0.0f;
  const int32_t d = min(minus(e, z_exponent), 20);  // at most 2^1 for a sample that is not refused
  const float p = m * one_over_z * power_of_two(plus(d, 100)) * 0x1p-100f;
  return p >= 0x1p-126f ? p : 0.0f;
}

}  // namespace biasgen
