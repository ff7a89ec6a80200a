// Certified search of float rows: the integer search runs over their 8-bit codes and hands on what it cannot rule out;
// a bound in single precision, then the value itself decide. The proof of the bounds: docs/exactness.md.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/knn.h"
#include "cpu/knn_squares-inl.h"
#include "cpu/row_values-inl.h"
#include "cpu/simd-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

// code = (x - center) / unit to the nearest of -128 .. 127, plus 128; residual: the distance of the row from its code.
template <class T>
void encode_rows(const FloatCodes& to) {
  const T* rows = static_cast<const T*>(to.rows);
  const double scale = 1 / to.unit, D = static_cast<double>(to.features);
  for (int64_t n = 0; n < to.N; ++n) {
    double sums[16] = {};  // 16, so that a compiler may take them at once
    for (int64_t begin = 0; begin < to.features; begin += 16) {
      const int64_t count = to.features - begin < 16 ? to.features - begin : 16;
      for (int64_t i = 0; i < count; ++i) {
        const double x = static_cast<double>(rows[n * to.features + begin + i]) - to.center[begin + i];
        double code = x * scale;
        code = code < -128 ? -128 : code > 127 ? 127 : code;
        code = (code + 0x1.8p52) - 0x1.8p52;     // to the nearest integer
        const double rest = x - code * to.unit;  // the product is exact: unit has 24 bits
        sums[i] += rest * rest;
        to.codes[n * to.features + begin + i] = static_cast<uint8_t>(static_cast<int32_t>(code) + 128);
      }
    }
    double sum = 0;
    for (double part : sums) sum += part;
    // Upwards: the roundings of x and rest, 2^-53 of at most 2 |rest| + 128 unit a feature, and those of the sum.
    to.residuals[n] = std::sqrt(sum) * (1 + (D + 32) * 0x1p-52) + std::sqrt(D) * to.unit * 0x1p-44;
  }
}

// (x - y)^2 in single precision. Whatever the order: a sum of nothing negative is off by a relative error alone, 2^-24
// for every rounding that a term goes through; here at most features / 16 + 32 of them.
inline float rough_square(const float* x, const float* y, int64_t features) {
  constexpr int64_t kStep = kLanes<float>;
  Vec<float> sum[4] = {};
  auto add = [&sum](int v, const float* from_x, const float* from_y) {
    const Vec<float> t = load(from_x) - load(from_y);
    sum[v] += t * t;
  };
  int64_t k = 0;
  for (; k + 4 * kStep <= features; k += 4 * kStep)
    for (int v = 0; v < 4; ++v) add(v, x + k + v * kStep, y + k + v * kStep);
  for (; k + kStep <= features; k += kStep) add(0, x + k, y + k);
  if (k < features) {
    float last[2][kStep] = {};
    std::memcpy(last[0], x + k, static_cast<size_t>(features - k) * sizeof(float));
    std::memcpy(last[1], y + k, static_cast<size_t>(features - k) * sizeof(float));
    add(1, last[0], last[1]);
  }
  const Vec<float> all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  float total = 0;
  for (int i = 0; i < kStep; ++i) total += all[i];
  return total;
}

// A sink of the integer search: `Taker` says which values still matter to a query, whether one more
// may be computed, and takes the rows that have them.
template <class T, class Taker>
struct Certified : FloatRows {
  const T *x, *y;
  double relative;  // error of a value and of what is computed from it
  Taker taker;

  Certified(const FloatRows& rows, const Taker& taker)
      : FloatRows(rows),
        x(static_cast<const T*>(rows.query)),
        y(static_cast<const T*>(rows.reference)),
        relative(static_cast<double>(4 * (rows.features + 8)) * 0x1p-53),
        taker(taker) {
    for (int64_t i = 0; i < outliers; ++i)
      for (int64_t n = 0; n < N; ++n) take_value(n, outlying[i]);
    for (int64_t n = 0; n < N; ++n) limits[n] = code_limit(n);
  }

  int64_t limit(int64_t n) const { return limits[n]; }

  void take(int64_t n, int64_t row, int64_t code_square) const {
    if (reference_residuals[row] > usual_residual) return;  // an outlier, taken already
    const double apart = unit * std::sqrt(static_cast<double>(code_square)) * (1 - 0x1p-50);
    const double lower = apart - query_residuals[n] - reference_residuals[row];
    if (lower > 0 && lower * lower * (1 - relative) > taker.reach(n)) return;
    if (!taker.may_try(n)) {
      limits[n] = -1;
      return;
    }
    if (take_value(n, row)) limits[n] = code_limit(n);
  }

  // Whether the row was near enough to be taken.
  bool take_value(int64_t n, int64_t row) const {
    const T *a = x + n * features, *b = y + row * features;
    if constexpr (sizeof(T) == 4) {
      // Twice the error. What overflowed is beyond the largest float; what underflowed lost at most 2^-149 a term.
      const double D = static_cast<double>(features), error = (D / 16 + 32) * 0x1p-23;
      const float rough = rough_square(a, b, features);
      const double lower = static_cast<double>(rough < FLT_MAX ? rough : FLT_MAX) * (1 - error) - D * 0x1p-148;
      if (lower > taker.reach(n)) return false;
    }
    const double value = row_value<false>(a, b, features);
    if (value > taker.reach(n)) return false;
    taker.take(n, row, value);
    return true;
  }

  // The largest square of codes that a row within reach can have, unless it is an outlier.
  int64_t code_limit(int64_t n) const {
    const double reach = taker.reach(n);
    if (reach < 0) return -1;
    const double far = (std::sqrt(reach) * (1 + relative) + query_residuals[n] + usual_residual) / unit;
    const double square = far * far * (1 + 0x1p-40);
    return square < 0x1p62 ? static_cast<int64_t>(square) + 1 : INT64_MAX;
  }
};

struct FloatNearestTaker : FloatNearest {
  explicit FloatNearestTaker(const FloatNearest& nearest, int64_t N) : FloatNearest(nearest) {
    for (int64_t i = 0; i < N * k; ++i) values[i] = INFINITY, rows[i] = INT64_MAX;
    for (int64_t n = 0; n < N; ++n) tie_rows[n] = tie_counts[n] = 0;
  }

  double reach(int64_t n) const { return values[n * k + k - 1]; }
  bool may_try(int64_t) const { return true; }

  // Rows come in any order. One as far as the k-th counts as a tie where the k-th is the nearest, too.
  void take(int64_t n, int64_t row, double value) const {
    double* d = values + n * k;
    int64_t* r = rows + n * k;
    if (value < d[0]) tie_rows[n] = tie_counts[n] = 0;
    if (value <= d[0]) {
      tie_rows[n] += 1;
      tie_counts[n] += multiplicity[row];
    }
    int64_t i = k;
    while (i > 0 && (d[i - 1] > value || (d[i - 1] == value && r[i - 1] > row))) --i;
    if (i == k) return;
    for (int64_t j = k - 1; j > i; --j) d[j] = d[j - 1], r[j] = r[j - 1];
    d[i] = value;
    r[i] = row;
  }
};

struct FloatWithinTaker : FloatWithin {
  explicit FloatWithinTaker(const FloatWithin& within, int64_t N) : FloatWithin(within) {
    for (int64_t n = 0; n < N; ++n) cursor[n] = offsets[n];
  }

  double reach(int64_t n) const { return radius[n]; }
  bool may_try(int64_t) const { return true; }

  void take(int64_t n, int64_t row, double) const {
    int64_t at = cursor[n]++;
    if (at >= offsets[n + 1]) return;
    for (; at > offsets[n] && rows[at - 1] > row; --at) rows[at] = rows[at - 1];
    rows[at] = row;
  }
};

template <class T, class Taker>
void search_floats(const FloatRows& rows, const Taker& taker) {
  encode_rows<T>({rows.float64, rows.query, rows.N, rows.features, rows.center, rows.unit, rows.query_codes,
                  rows.query_residuals});
  search_squares(
      {Distance::sqeuclidean, rows.query_codes, rows.reference_codes, rows.N, rows.M, rows.features, 8, rows.scratch},
      Certified<T, Taker>(rows, taker));
}

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
