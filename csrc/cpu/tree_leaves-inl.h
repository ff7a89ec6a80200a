// Evidence of the leaves as messages, and rows of marginals: between row-major samples and one sample a lane.
#pragma once
#include <cstring>

#include "core/tree_exp.h"
#include "cpu/tree_messages-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

typedef float Float4 __attribute__((vector_size(16)));
typedef double Double2 __attribute__((vector_size(16)));

// ---- 16-byte blocks are transposed ----------------------------------------------------------------------------------

inline void transpose(Float4& a, Float4& b, Float4& c, Float4& d) {
  const Float4 ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Float4 cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
}

// columns[c][lane] = rows[lane][start + c]
inline void load_columns(const float* const* rows, int64_t start, int64_t count, float* columns) {
  int64_t c = 0;
  for (; c + 4 <= count; c += 4) {
    for (int lane = 0; lane < kSamples; lane += 4) {
      Float4 block[4];
      for (int r = 0; r < 4; ++r) std::memcpy(&block[r], rows[lane + r] + start + c, 16);
      transpose(block[0], block[1], block[2], block[3]);
      for (int r = 0; r < 4; ++r) std::memcpy(columns + (c + r) * kSamples + lane, &block[r], 16);
    }
  }
  for (; c < count; ++c)
    for (int lane = 0; lane < kSamples; ++lane) columns[c * kSamples + lane] = rows[lane][start + c];
}

inline void load_columns(const double* const* rows, int64_t start, int64_t count, double* columns) {
  int64_t c = 0;
  for (; c + 2 <= count; c += 2) {
    for (int lane = 0; lane < kSamples; lane += 2) {
      Double2 a, b;
      std::memcpy(&a, rows[lane] + start + c, 16);
      std::memcpy(&b, rows[lane + 1] + start + c, 16);
      const Double2 low = __builtin_shufflevector(a, b, 0, 2), high = __builtin_shufflevector(a, b, 1, 3);
      std::memcpy(columns + c * kSamples + lane, &low, 16);
      std::memcpy(columns + (c + 1) * kSamples + lane, &high, 16);
    }
  }
  for (; c < count; ++c)
    for (int lane = 0; lane < kSamples; ++lane) columns[c * kSamples + lane] = rows[lane][start + c];
}

inline void store_columns(const float* columns, int64_t start, int64_t count, float* const* rows) {
  int64_t c = 0;
  for (; c + 4 <= count; c += 4) {
    for (int lane = 0; lane < kSamples; lane += 4) {
      Float4 block[4];
      for (int r = 0; r < 4; ++r) std::memcpy(&block[r], columns + (c + r) * kSamples + lane, 16);
      transpose(block[0], block[1], block[2], block[3]);
      for (int r = 0; r < 4; ++r) std::memcpy(rows[lane + r] + start + c, &block[r], 16);
    }
  }
  for (; c < count; ++c)
    for (int lane = 0; lane < kSamples; ++lane) rows[lane][start + c] = columns[c * kSamples + lane];
}

// ---- leaves ---------------------------------------------------------------------------------------------------------

// Half a tile in double.
constexpr int kHalf = kSamples / 2;
typedef double Double __attribute__((vector_size(kVectorBytes)));
typedef int64_t Long __attribute__((vector_size(kVectorBytes)));
typedef float HalfFloat __attribute__((vector_size(kVectorBytes / 2)));
typedef int32_t HalfInt __attribute__((vector_size(kVectorBytes / 2)));

inline Double load_half(const float* p) {
  HalfFloat x;
  std::memcpy(&x, p, sizeof x);
  return __builtin_convertvector(x, Double);
}

inline Double load_half(const double* p) {
  Double x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

// What the leaves of half a tile add up to.
struct LeafSums {
  Double top, top_error;  // sum of the largest fields, and what rounding took from it
  Double spread;          // bits
  Long refused;           // not 0: NaN or +inf
};

// One leaf, half a tile: the field relative to its largest entry, in bits, as whole part (exponent) and fraction 0 .. 1
// (left in the mantissa's place for exp2_entries; -1 where the symbol is excluded). In double: a field of 1e5 leaves
// float32 no fraction.
template <typename T>
void read_leaf(const T* columns, int64_t Q, int half, Entry* message, LeafSums& sums) {
  const Double infinity = Double{} + __builtin_inf();
  Double top = -infinity, low{};
  for (int64_t a = 0; a < Q; ++a) {
    const Double f = load_half(columns + a * kSamples + half * kHalf);
    top = f > top ? f : top;
    sums.refused |= ~(f < infinity);
  }
  for (int64_t a = 0; a < Q; ++a) {
    const Double f = load_half(columns + a * kSamples + half * kHalf);
    const auto allowed = f > -infinity;
    Double bits = allowed ? (f - top) * kLog2E : Double{};
    low = bits < low ? bits : low;
    bits = bits > -kMaxSpread ? bits
                              : Double{} - kMaxSpread;  // such a sample is refused, but until then int32 must hold it
    const HalfInt whole = __builtin_convertvector(bits, HalfInt) - 1;  // truncation of bits <= 0 is upward
    const Double fraction = bits - __builtin_convertvector(whole, Double);
    const HalfFloat g = __builtin_convertvector(allowed ? fraction : Double{} - 1.0, HalfFloat);
    std::memcpy(reinterpret_cast<float*>(&message[a].mantissa) + half * kHalf, &g, sizeof g);
    std::memcpy(reinterpret_cast<int32_t*>(&message[a].exponent) + half * kHalf, &whole, sizeof whole);
  }
  // Two-sum: fields of opposite sign on different leaves cancel, and log_z must not notice.
  const Double t = top > -infinity ? top : Double{};
  const Double sum = sums.top + t;
  const Double part = sum - sums.top;
  sums.top_error += (sums.top - (sum - part)) + (t - part);
  sums.top = sum;
  sums.spread -= low;
}

// Turns the fractions left by read_leaf into mantissas.
inline void exp2_entries(Entry* entries, int64_t count) {
  const auto fused = [](Float a, Float b, Float c) { return multiply_add(a, b, c); };
  for (int64_t i = 0; i < count; ++i) {
    const Float g = entries[i].mantissa;
    const auto allowed = g >= 0.0f;
    entries[i].mantissa = allowed ? exp2_mantissa(g, fused) : Float{};
    entries[i].exponent = allowed ? entries[i].exponent : Int{};
  }
}

// Leaves that were seen, or not: tokens of one leaf, -1 for one that was not.
template <typename T>
void read_token(const T* const* rows, int64_t leaf, int64_t Q, Entry* message) {
  Int token;
  for (int lane = 0; lane < kSamples; ++lane) token[lane] = rows[lane][leaf];
  for (int32_t a = 0; a < Q; ++a) {
    const auto allowed = (token == a) | (token < 0);
    message[a] = {allowed ? Float{} + 1.0f : Float{}, Int{}};
  }
}

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
