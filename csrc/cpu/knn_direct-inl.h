// Nearest rows by distances that no product of matrices bounds: every pair is compared feature by feature, and given up
// as soon as it is surely too far. Bytes are compared as they are. Floats are compared in their own precision first,
// which is quick; what may be near enough gets its value to the bit (docs/exactness.md).
#pragma once
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/knn.h"
#include "cpu/row_values-inl.h"
#include "cpu/simd-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

// What a distance makes of the |x - y| of all features: how one more vector of them is taken in, and how two parts are
// joined. Bytes is the type of the running parts of bytes, those of floats are vectors of floats.
struct Sum {
  typedef Vec<int64_t> Bytes;
  static Bytes take(Bytes part, Vec<uint8_t> x, Vec<uint8_t> y) { return part + sums_of_differences(x, y); }

  template <class V>
  static V join(V a, V b) {
    return a + b;
  }
};

struct Maximum {
  typedef Vec<uint8_t> Bytes;
  static Bytes take(Bytes part, Vec<uint8_t> x, Vec<uint8_t> y) { return join(part, join(x, y) - smaller(x, y)); }

  template <class V>
  static V join(V a, V b) {
    return a < b ? b : a;
  }
};

template <class Join>
inline Vec<float> take(Join, Vec<float> part, Vec<float> x, Vec<float> y) {
  return Join::join(part, magnitude(x - y));
}

template <class Join>
inline Vec<double> take(Join, Vec<double> part, Vec<double> x, Vec<double> y) {
  return Join::join(part, magnitude(x - y));
}

template <class Join>
inline typename Join::Bytes take(Join, typename Join::Bytes part, Vec<uint8_t> x, Vec<uint8_t> y) {
  return Join::take(part, x, y);
}

// Of rows of T: the running parts of a vector, and what they come to, which is exact for bytes.
template <class Join, class T>
using Parts = std::conditional_t<sizeof(T) == 1, typename Join::Bytes, Vec<T>>;
template <class T>
using Total = std::conditional_t<sizeof(T) == 1, int64_t, double>;

template <class Join, class T, class P>
inline Total<T> total_of(const P (&parts)[4]) {
  const P all = Join::join(Join::join(parts[0], parts[1]), Join::join(parts[2], parts[3]));
  constexpr int kCount = sizeof(P) / sizeof(all[0]);
  std::remove_cv_t<std::remove_reference_t<decltype(all[0])>> lanes[kCount];
  std::memcpy(lanes, &all, sizeof all);
  for (int width = kCount / 2; width; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] = Join::join(lanes[i], lanes[i + width]);
  return static_cast<Total<T>>(lanes[0]);
}

// A row, and its features beyond the last whole vector, filled up with zeros.
template <class T>
struct Tailed {
  const T *row, *tail;
};

// The value of two rows, or of some of their features where that is beyond `limit` already. Floats: rounded at most
// features / (4 lanes) + 32 times, each time by one unit of their precision.
template <class Join, class T>
Total<T> rough_value(const Tailed<T>& x, const Tailed<T>& y, int64_t features, Total<T> limit) {
  constexpr int64_t kStep = kLanes<T>, kRun = 32 * kStep;  // features between two looks at the limit
  typedef Parts<Join, T> P;
  Total<T> total = 0;
  int64_t k = 0;
  for (; k + kRun <= features; k += kRun) {
    P parts[4] = {};
    for (int64_t i = k; i < k + kRun; i += 4 * kStep)
      for (int v = 0; v < 4; ++v)
        parts[v] = take(Join{}, parts[v], load(x.row + i + v * kStep), load(y.row + i + v * kStep));
    total = Join::join(total, total_of<Join, T>(parts));
    if (total > limit) return total;
  }
  P parts[4] = {};
  for (; k + 4 * kStep <= features; k += 4 * kStep)
    for (int v = 0; v < 4; ++v)
      parts[v] = take(Join{}, parts[v], load(x.row + k + v * kStep), load(y.row + k + v * kStep));
  for (; k + kStep <= features; k += kStep) parts[0] = take(Join{}, parts[0], load(x.row + k), load(y.row + k));
  if (k < features) parts[1] = take(Join{}, parts[1], load(x.tail), load(y.tail));
  return Join::join(total, total_of<Join, T>(parts));
}

// The rough value that a pair of a value within reach can have at most: twice the roundings of both. A value as large
// as the largest float may have overflowed.
template <class T>
double rough_limit(double reach, int64_t features) {
  constexpr double kUnit = sizeof(T) == 4 ? 0x1p-24 : 0x1p-53, kLargest = sizeof(T) == 4 ? FLT_MAX : DBL_MAX;
  const double limit = reach * (1 + (static_cast<double>(features) / 8 + 64) * 4 * kUnit);
  return limit < kLargest ? limit : INFINITY;
}

template <class T>
void copy_tails(const T* rows, int64_t count, int64_t features, T* tails) {
  constexpr int64_t kStep = kLanes<T>;
  const int64_t whole = features / kStep * kStep;
  for (int64_t row = 0; row < count; ++row) {
    T* tail = tails + row * kStep;
    std::memset(tail, 0, kStep * sizeof(T));
    std::memcpy(tail, rows + row * features + whole, static_cast<size_t>(features - whole) * sizeof(T));
  }
}

template <class Join, class T, class Sink>
void search_pairs(const DirectRows& rows, const Sink& sink) {
  constexpr int64_t kStep = kLanes<T>;
  constexpr int64_t kCacheBytes = 256 << 10;  // rows that all queries visit before the next ones: half of a small L2
  const int64_t features = rows.features, fitting = kCacheBytes / (features * static_cast<int64_t>(sizeof(T)));
  const int64_t block = fitting < 1 ? 1 : fitting < kDirectRows ? fitting : kDirectRows;
  const T *query = static_cast<const T*>(rows.query), *reference = static_cast<const T*>(rows.reference);
  T *query_tails = static_cast<T*>(rows.scratch), *tails = query_tails + rows.N * kStep;
  copy_tails(query, rows.N, features, query_tails);
  for (int64_t first = 0; first < rows.M; first += block) {
    const int64_t count = rows.M - first < block ? rows.M - first : block;
    copy_tails(reference + first * features, count, features, tails);
    for (int64_t n = 0; n < rows.N; ++n) {
      const Tailed<T> x{query + n * features, query_tails + n * kStep};
      for (int64_t i = 0; i < count; ++i) {
        const Tailed<T> y{reference + (first + i) * features, tails + i * kStep};
        if constexpr (sizeof(T) == 1) {
          const int64_t limit = sink.limit(n), value = rough_value<Join, T>(x, y, features, limit);
          if (value <= limit) sink.take(n, first + i, value);
        } else {
          const double reach = sink.reach(n), limit = rough_limit<T>(reach, features);
          if (rough_value<Join, T>(x, y, features, limit) > limit) continue;
          const double value = lane_fold(
              x.row, y.row, features, [](Vec<double> a, Vec<double> b) { return magnitude(a - b); },
              [](auto a, auto b) { return Join::join(a, b); });
          if (value <= reach) sink.take(n, first + i, value);
        }
      }
    }
  }
}

template <class T, class Sink>
void search_direct(const DirectRows& rows, const Sink& sink) {
  switch (rows.distance) {
    case DirectDistance::cityblock:
      return search_pairs<Sum, T>(rows, sink);
    case DirectDistance::chebyshev:
      return search_pairs<Maximum, T>(rows, sink);
  }
}

template <class Sink>
void search_direct_floats(const DirectRows& rows, const Sink& sink) {
  rows.element == Element::float32 ? search_direct<float>(rows, sink) : search_direct<double>(rows, sink);
}

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
