// Evidence of the leaves as messages, and rows of marginals: between row-major samples and one sample a lane.
#pragma once
#include <cstring>

#include "core/tree_exp.h"
#include "cpu/tree_messages-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

typedef double Double __attribute__((vector_size(kVectorBytes)));

// ---- transposition: a vector holds 16 bytes of each of kVectorBytes / 16 rows ---------------------------------------

// Spelled out for each width: the shuffles that the instruction sets have within 16 bytes, and no others.
#if defined(__AVX512BW__)
#define BIASGEN_LOW_FLOATS 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define BIASGEN_HIGH_FLOATS 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#define BIASGEN_LOW_DOUBLES 0, 8, 2, 10, 4, 12, 6, 14
#define BIASGEN_HIGH_DOUBLES 1, 9, 3, 11, 5, 13, 7, 15
#elif defined(__AVX2__)
#define BIASGEN_LOW_FLOATS 0, 8, 1, 9, 4, 12, 5, 13
#define BIASGEN_HIGH_FLOATS 2, 10, 3, 11, 6, 14, 7, 15
#define BIASGEN_LOW_DOUBLES 0, 4, 2, 6
#define BIASGEN_HIGH_DOUBLES 1, 5, 3, 7
#else
#define BIASGEN_LOW_FLOATS 0, 4, 1, 5
#define BIASGEN_HIGH_FLOATS 2, 6, 3, 7
#define BIASGEN_LOW_DOUBLES 0, 2
#define BIASGEN_HIGH_DOUBLES 1, 3
#endif

// In every 16 bytes: the first, or the last, halves of a and b, elements in turn.
inline Float low(Float a, Float b) { return __builtin_shufflevector(a, b, BIASGEN_LOW_FLOATS); }
inline Float high(Float a, Float b) { return __builtin_shufflevector(a, b, BIASGEN_HIGH_FLOATS); }
inline Double low(Double a, Double b) { return __builtin_shufflevector(a, b, BIASGEN_LOW_DOUBLES); }
inline Double high(Double a, Double b) { return __builtin_shufflevector(a, b, BIASGEN_HIGH_DOUBLES); }

typedef float Float4 __attribute__((vector_size(16)));

inline Float4 load_16_bytes(const void* from) {
  Float4 v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// 16 bytes of rows[0], rows[apart] ... from element `at`.
template <typename T>
inline Vec<T> join(const T* const* rows, int apart, int64_t at) {
  static_cast<void>(apart);
  const Float4 a = load_16_bytes(rows[0] + at);
#if defined(__AVX512BW__) || defined(__AVX2__)
  const auto ab = __builtin_shufflevector(a, load_16_bytes(rows[apart] + at), 0, 1, 2, 3, 4, 5, 6, 7);
#if defined(__AVX512BW__)
  const auto cd = __builtin_shufflevector(load_16_bytes(rows[2 * apart] + at), load_16_bytes(rows[3 * apart] + at), 0,
                                          1, 2, 3, 4, 5, 6, 7);
  return (Vec<T>)__builtin_shufflevector(ab, cd, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  return (Vec<T>)ab;
#endif
#else
  return (Vec<T>)a;
#endif
}

// The inverse.
inline void part(Float v, float* const* rows, int apart, int64_t at) {
  static_cast<void>(apart);
  const Float4 a = __builtin_shufflevector(v, v, 0, 1, 2, 3);
  std::memcpy(rows[0] + at, &a, sizeof a);
#if defined(__AVX512BW__) || defined(__AVX2__)
  const Float4 b = __builtin_shufflevector(v, v, 4, 5, 6, 7);
  std::memcpy(rows[apart] + at, &b, sizeof b);
#endif
#if defined(__AVX512BW__)
  const Float4 c = __builtin_shufflevector(v, v, 8, 9, 10, 11), d = __builtin_shufflevector(v, v, 12, 13, 14, 15);
  std::memcpy(rows[2 * apart] + at, &c, sizeof c);
  std::memcpy(rows[3 * apart] + at, &d, sizeof d);
#endif
}

// Four vectors of 4 x 4 blocks, each block transposed.
inline void transpose(Float (&v)[4]) {
  const Double ab0 = (Double)low(v[0], v[1]), ab2 = (Double)high(v[0], v[1]);
  const Double cd0 = (Double)low(v[2], v[3]), cd2 = (Double)high(v[2], v[3]);
  v[0] = (Float)low(ab0, cd0), v[1] = (Float)high(ab0, cd0);
  v[2] = (Float)low(ab2, cd2), v[3] = (Float)high(ab2, cd2);
}

// columns[c][lane] = rows[lane][start + c]
inline void load_columns(const float* const* rows, int64_t start, int64_t count, float* columns) {
  int64_t c = 0;
  for (; c + 4 <= count; c += 4) {
    Float v[4];
    for (int r = 0; r < 4; ++r) v[r] = join(rows + r, 4, start + c);
    transpose(v);
    for (int r = 0; r < 4; ++r) store(columns + (c + r) * kSamples, v[r]);
  }
  for (; c < count; ++c)
    for (int lane = 0; lane < kSamples; ++lane) columns[c * kSamples + lane] = rows[lane][start + c];
}

inline void load_columns(const double* const* rows, int64_t start, int64_t count, double* columns) {
  int64_t c = 0;
  for (; c + 2 <= count; c += 2) {
    for (int lane = 0; lane < kSamples; lane += kSamples / 2) {
      const Double even = join(rows + lane, 2, start + c), odd = join(rows + lane + 1, 2, start + c);
      store(columns + c * kSamples + lane, low(even, odd));
      store(columns + (c + 1) * kSamples + lane, high(even, odd));
    }
  }
  for (; c < count; ++c)
    for (int lane = 0; lane < kSamples; ++lane) columns[c * kSamples + lane] = rows[lane][start + c];
}

inline void store_columns(const float* columns, int64_t start, int64_t count, float* const* rows) {
  int64_t c = 0;
  for (; c + 4 <= count; c += 4) {
    Float v[4];
    for (int r = 0; r < 4; ++r) v[r] = load(columns + (c + r) * kSamples);
    transpose(v);
    for (int r = 0; r < 4; ++r) part(v[r], rows + r, 4, start + c);
  }
  for (; c < count; ++c)
    for (int lane = 0; lane < kSamples; ++lane) rows[lane][start + c] = columns[c * kSamples + lane];
}

// ---- leaves ---------------------------------------------------------------------------------------------------------

// Half a tile in double.
constexpr int kHalf = kSamples / 2;
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

// Added to a double below 2^51, leaves it rounded to an integer, whose low 32 bits are those of the sum.
constexpr double kRounding = 0x1.8p52;

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
    // To the nearest integer of bits - 1/2, which stands in the low bits of what rounds there; so 0 <= fraction <= 1,
    // but for bits so small that the half swallows them: then it is these bits, a little below 0.
    const Double rounded = bits - 0.5 + kRounding;
    const Double fraction = bits - (rounded - kRounding);
    const HalfInt whole = __builtin_convertvector((Long)rounded, HalfInt);
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
    const auto allowed = g > -0.5f;
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
