// The value of a distance between two rows of floats, to the bit (docs/exactness.md), and a quick bound from below.
#pragma once
#include <cstdint>
#include <cstring>

#include "cpu/knn.h"
#include "cpu/simd-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

constexpr int kValueLanes = 16, kValueVectors = kValueLanes / kLanes<double>;

inline Vec<double> load_doubles(const double* from) { return load(from); }

inline Vec<double> load_doubles(const float* from) {
  typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
  Half half;
  std::memcpy(&half, from, sizeof half);
  return __builtin_convertvector(half, Vec<double>);
}

// Lane l adds the terms l, l + 16, l + 32 ... in this order, then the lanes are halved; no fused multiply-add.
template <bool cityblock, class T>
double row_value(const T* x, const T* y, int64_t features) {
  Vec<double> sum[kValueVectors] = {};
  auto add = [&sum](const T* x_16, const T* y_16) {
    for (int v = 0; v < kValueVectors; ++v) {
      const Vec<double> t = load_doubles(x_16 + v * kLanes<double>) - load_doubles(y_16 + v * kLanes<double>);
      sum[v] += cityblock ? (t < 0 ? -t : t) : t * t;
    }
  };
  int64_t k = 0;
  for (; k + kValueLanes <= features; k += kValueLanes) add(x + k, y + k);
  if (k < features) {  // the missing terms are 0, and change no sum
    T last[2][kValueLanes] = {};
    std::memcpy(last[0], x + k, static_cast<size_t>(features - k) * sizeof(T));
    std::memcpy(last[1], y + k, static_cast<size_t>(features - k) * sizeof(T));
    add(last[0], last[1]);
  }
  double lanes[kValueLanes];
  for (int v = 0; v < kValueVectors; ++v) store(lanes + v * kLanes<double>, sum[v]);
  for (int width = kValueLanes / 2; width; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

template <class T>
void values(const KnnPairs& pairs) {
  const T *query = static_cast<const T*>(pairs.query), *reference = static_cast<const T*>(pairs.reference);
  for (int64_t p = 0; p < pairs.P; ++p) {
    const T *x = query + pairs.query_rows[p] * pairs.features, *y = reference + pairs.rows[p] * pairs.features;
    pairs.values[p] = pairs.cityblock ? row_value<true>(x, y, pairs.features) : row_value<false>(x, y, pairs.features);
  }
}

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
