// The value of a distance between two rows, to the bit (docs/exactness.md).
#pragma once
#include <cmath>
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

inline Vec<double> load_doubles(const uint8_t* from) { return doubles_of(from); }

// Lane l joins the terms l, l + 16, l + 32 ... in this order, then the lanes are halved; no fused multiply-add. Terms
// that are missing are 0, which must change nothing.
template <class T, class Term, class Join>
double lane_fold(const T* x, const T* y, int64_t features, const Term& term, const Join& join) {
  constexpr int kStep = kLanes<double>;
  Vec<double> sum[kValueVectors] = {};
  int64_t k = 0;
  for (; k + kValueLanes <= features; k += kValueLanes)
    for (int v = 0; v < kValueVectors; ++v)
      sum[v] = join(sum[v], term(load_doubles(x + k + v * kStep), load_doubles(y + k + v * kStep)));
  double lanes[kValueLanes];
  if (k < features) {
    T last[2][kValueLanes] = {};
    std::memcpy(last[0], x + k, static_cast<size_t>(features - k) * sizeof(T));
    std::memcpy(last[1], y + k, static_cast<size_t>(features - k) * sizeof(T));
    for (int v = 0; v < kValueVectors; ++v)
      store(lanes + v * kStep, term(load_doubles(last[0] + v * kStep), load_doubles(last[1] + v * kStep)));
    for (int64_t i = features - k; i < kValueLanes; ++i) lanes[i] = 0;
    for (int v = 0; v < kValueVectors; ++v) sum[v] = join(sum[v], load(lanes + v * kStep));
  }
  for (int v = 0; v < kValueVectors; ++v) store(lanes + v * kStep, sum[v]);
  for (int width = kValueLanes / 2; width; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] = join(lanes[i], lanes[i + width]);
  return lanes[0];
}

template <class T, class Term>
double lane_sum(const T* x, const T* y, int64_t features, const Term& term) {
  return lane_fold(x, y, features, term, [](auto a, auto b) { return a + b; });
}

template <class T>
double squared_distance(const T* x, const T* y, int64_t features) {
  return lane_sum(x, y, features, [](Vec<double> x_k, Vec<double> y_k) {
    const Vec<double> t = x_k - y_k;
    return t * t;
  });
}

template <class T>
Scaling scaling_of(const T* row, int64_t features, bool centered) {
  double mean = 0;
  if (centered) {
    bool constant = true;
    for (int64_t k = 1; k < features && constant; ++k) constant = row[k] == row[0];
    if (constant) return {};  // the zero row, whatever the mean rounds to
    mean = lane_sum(row, row, features, [](Vec<double> x, Vec<double>) { return x; }) / static_cast<double>(features);
  }
  double most[kValueLanes] = {}, largest = 0;
  for (int64_t begin = 0; begin < features; begin += kValueLanes)
    for (int64_t i = 0; i < kValueLanes && begin + i < features; ++i) {
      const double apart = std::fabs(static_cast<double>(row[begin + i]) - mean);
      most[i] = apart > most[i] ? apart : most[i];
    }
  for (double one : most) largest = one > largest ? one : largest;
  if (largest == 0) return {};
  const double length = std::sqrt(lane_sum(row, row, features, [=](Vec<double> x, Vec<double>) {
    const Vec<double> a = (x - mean) / largest;
    return a * a;
  }));
  constexpr double kFar = sizeof(T) == 8 ? 1e290 : 1e30;
  const double inverse = 1 / (largest * length);
  return {mean, largest, length, inverse > 1 / kFar && inverse < kFar ? inverse : 0};
}

// A part of the row at length 1: two divisions, as the value is defined.
inline Vec<double> point(Vec<double> x, const Scaling& to) { return (x - to.mean) / to.largest / to.length; }

// Half the squared chord between the points of two rows, neither of them the zero row.
template <class T>
double half_chord(const T* x, const T* y, int64_t features, const Scaling& to_x, const Scaling& to_y) {
  return lane_sum(x, y, features,
                  [&](Vec<double> x_k, Vec<double> y_k) {
                    const Vec<double> t = point(x_k, to_x) - point(y_k, to_y);
                    return t * t;
                  }) /
         2;
}

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
