// Certified search of float rows, and of points at length 1 (cosine, correlation), which are never stored: the integer
// search runs over their 8-bit codes and hands on what it cannot rule out; a rough bound, then the value itself decide.
// The proof of the bounds: docs/exactness.md.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/knn.h"
#include "cpu/knn_squares-inl.h"
#include "cpu/row_values-inl.h"
#include "cpu/simd-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

// Whether points at length 1 are compared, not rows.
inline bool is_scaled(FloatDistance distance) {
  switch (distance) {
    case FloatDistance::sqeuclidean:
      return false;
    case FloatDistance::cosine:
    case FloatDistance::correlation:
      break;
  }
  return true;
}

// Calls work(T{}, scaled) for the element type of the rows; scaled: std::true_type where points are compared, not rows.
template <class Rows, class Work>
void with_element(const Rows& rows, const Work& work) {
  const bool scaled = is_scaled(rows.distance);
  if (rows.element == Element::uint8) return work(uint8_t{}, std::true_type{});
  if (rows.element == Element::float32)
    return scaled ? work(float{}, std::true_type{}) : work(float{}, std::false_type{});
  return scaled ? work(double{}, std::true_type{}) : work(double{}, std::false_type{});
}

// code = (x - center) / unit to the nearest of -128 .. 127, plus 128; residual: the distance of the row from its code.
// Scaled, x are those of the point; the residual of the zero row, which has none, is infinite.
template <class T, bool scaled>
void encode_rows(const FloatCodes& to) {
  const T* rows = static_cast<const T*>(to.rows);
  const double scale = 1 / to.unit, D = static_cast<double>(to.features);
  for (int64_t n = 0; n < to.N; ++n) {
    const T* row = rows + n * to.features;
    uint8_t* codes = to.codes + n * to.features;
    Scaling scaling{};
    if constexpr (scaled) {
      scaling = to.scalings[n] = scaling_of(row, to.features, to.distance == FloatDistance::correlation);
      if (scaling.length == 0) {
        std::memset(codes, 128, static_cast<size_t>(to.features));
        to.residuals[n] = INFINITY;
        continue;
      }
    }
    double sums[16] = {};  // 16, so that a compiler may take them at once
    for (int64_t begin = 0; begin < to.features; begin += 16) {
      const int64_t count = to.features - begin < 16 ? to.features - begin : 16;
      for (int64_t i = 0; i < count; ++i) {
        double x = static_cast<double>(row[begin + i]);
        if constexpr (scaled) x = (x - scaling.mean) / scaling.largest / scaling.length;
        x -= to.center[begin + i];
        double code = x * scale;
        code = code < -128 ? -128 : code > 127 ? 127 : code;
        code = (code + 0x1.8p52) - 0x1.8p52;     // to the nearest integer
        const double rest = x - code * to.unit;  // the product is exact: unit has 24 bits
        sums[i] += rest * rest;
        codes[begin + i] = static_cast<uint8_t>(static_cast<int32_t>(code) + 128);
      }
    }
    double sum = 0;
    for (double part : sums) sum += part;
    // Upwards: the roundings of x and rest, 2^-53 of at most 2 |rest| + 128 unit a feature, and those of the sum.
    to.residuals[n] = std::sqrt(sum) * (1 + (D + 32) * 0x1p-52) + std::sqrt(D) * to.unit * 0x1p-44;
  }
}

// What rough_square computes in: single precision, of float64 rows double.
template <class T>
using Rough = std::conditional_t<sizeof(T) == 8, double, float>;

inline Vec<float> load_rough(const float* from) { return load(from); }
inline Vec<double> load_rough(const double* from) { return load(from); }
inline Vec<float> load_rough(const uint8_t* from) { return floats_of(from); }

// The sum of the squares of term(x, y). Whatever the order: a sum of nothing negative is off by a relative error alone,
// one rounding unit for every rounding that a term goes through; here at most features / 8 + 32 of them, with 16 lanes
// or more features / 16 + 32.
template <class T, class Term>
inline Rough<T> rough_square(const T* x, const T* y, int64_t features, const Term& term) {
  using R = Rough<T>;
  constexpr int64_t kStep = kLanes<R>;
  Vec<R> sum[4] = {};
  auto add = [&](int v, int64_t k) {
    const Vec<R> t = term(load_rough(x + k), load_rough(y + k));
    sum[v] += t * t;
  };
  int64_t k = 0;
  for (; k + 4 * kStep <= features; k += 4 * kStep)
    for (int v = 0; v < 4; ++v) add(v, k + v * kStep);
  for (; k + kStep <= features; k += kStep) add(0, k);
  if (k < features) {
    T last[2][kStep] = {};
    R terms[kStep];
    std::memcpy(last[0], x + k, static_cast<size_t>(features - k) * sizeof(T));
    std::memcpy(last[1], y + k, static_cast<size_t>(features - k) * sizeof(T));
    store(terms, term(load_rough(last[0]), load_rough(last[1])));
    for (int64_t i = features - k; i < kStep; ++i) terms[i] = 0;
    const Vec<R> t = load(terms);
    sum[1] += t * t;
  }
  const Vec<R> all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  R total = 0;
  for (int i = 0; i < kStep; ++i) total += all[i];
  return total;
}

// A sink of the integer search: `Taker` says which values still matter to a query, whether one more may be computed,
// and takes the rows that have them.
template <class T, bool scaled, class Taker>
struct Certified : FloatRows {
  static constexpr double kSquares = scaled ? 2 : 1;                       // in a value
  static constexpr double kRounding = sizeof(T) == 8 ? 0x1p-53 : 0x1p-24;  // of Rough<T>

  const T *x, *y;
  double relative;        // error of a value and of what is computed from it
  double rough_relative;  // twice the error of rough_square
  double root;            // of the features
  Taker taker;

  Certified(const FloatRows& rows, const Taker& taker)
      : FloatRows(rows),
        x(static_cast<const T*>(rows.query)),
        y(static_cast<const T*>(rows.reference)),
        relative(static_cast<double>(4 * (rows.features + 8)) * 0x1p-53),
        rough_relative((static_cast<double>(rows.features) / (sizeof(T) == 8 ? 8 : 16) + 32) * 2 * kRounding),
        root(std::sqrt(static_cast<double>(rows.features))),
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
    if (lower > 0 && lower * lower * (1 - relative) > kSquares * taker.reach(n)) return;
    if (!taker.may_try(n)) {
      limits[n] = -1;
      return;
    }
    if (take_value(n, row)) limits[n] = code_limit(n);
  }

  // Whether the row was near enough to be taken.
  bool take_value(int64_t n, int64_t row) const {
    const T *a = x + n * features, *b = y + row * features;
    double value;
    if constexpr (scaled) {
      const Scaling &to_a = query_scalings[n], &to_b = reference_scalings[row];
      if (to_a.length == 0 || to_b.length == 0) {
        value = to_a.length == to_b.length ? 0 : 1;
      } else {
        if (to_a.inverse != 0 && to_b.inverse != 0 && surely_beyond(a, b, to_a, to_b, taker.reach(n))) return false;
        value = half_chord(a, b, features, to_a, to_b);
      }
    } else {
      if constexpr (sizeof(T) == 4)
        if (surely_beyond(a, b, taker.reach(n))) return false;
      value = squared_distance(a, b, features);
    }
    if (value > taker.reach(n)) return false;
    taker.take(n, row, value);
    return true;
  }

  // What overflowed is beyond the largest float; what underflowed lost at most 2^-149 a term.
  bool surely_beyond(const float* a, const float* b, double reach) const {
    const float rough = rough_square(a, b, features, [](Vec<float> x_k, Vec<float> y_k) { return x_k - y_k; });
    const double least = static_cast<double>(rough < FLT_MAX ? rough : FLT_MAX);
    return least * (1 - rough_relative) - static_cast<double>(features) * 0x1p-148 > reach;
  }

  // Points by one product an element: each is off by a length of at most 6 roundings of itself and 1 of its mean. Twice
  // that and more is allowed for.
  bool surely_beyond(const T* a, const T* b, const Scaling& to_a, const Scaling& to_b, double reach) const {
    using R = Rough<T>;
    const R mean_a = static_cast<R>(to_a.mean), mean_b = static_cast<R>(to_b.mean);
    const R by_a = static_cast<R>(to_a.inverse), by_b = static_cast<R>(to_b.inverse);
    const R rough = rough_square(a, b, features,
                                 [=](Vec<R> x_k, Vec<R> y_k) { return (x_k - mean_a) * by_a - (y_k - mean_b) * by_b; });
    const double means = std::fabs(to_a.mean) * to_a.inverse + std::fabs(to_b.mean) * to_b.inverse;
    const double lower =
        std::sqrt(static_cast<double>(rough) * (1 - rough_relative)) - 16 * kRounding * (2 + root * means);
    return lower > 0 && lower < 4 &&
           lower * lower * (1 - relative) > 2 * reach;  // a chord is below 4, unless it overflowed
  }

  // The largest square of codes that a row within reach can have, unless it is an outlier.
  int64_t code_limit(int64_t n) const {
    const double reach = kSquares * taker.reach(n);
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

template <class Taker>
void search_floats(const FloatRows& rows, const Taker& taker) {
  with_element(rows, [&](auto element, auto scaled) {
    using T = decltype(element);
    encode_rows<T, scaled>({rows.distance, rows.element, rows.query, rows.N, rows.features, rows.center, rows.unit,
                            rows.query_codes, rows.query_residuals, rows.query_scalings});
    search_squares({IntegerDistance::sqeuclidean, Element::uint8, rows.query_codes, rows.reference_codes, rows.N,
                    rows.M, rows.features, 8, rows.scratch},
                   Certified<T, scaled, Taker>(rows, taker));
  });
}

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
