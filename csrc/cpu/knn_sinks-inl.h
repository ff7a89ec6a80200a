// What becomes of the rows that a search finds near enough.
#pragma once
#include <cstdint>

#include "cpu/knn.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

// A sink says up to which distance a row matters to query n, and takes the rows that do, in ascending order.

struct NearestSink : KnnNearest {
  explicit NearestSink(const KnnNearest& nearest, int64_t N) : KnnNearest(nearest) {
    for (int64_t i = 0; i < N * k; ++i) distances[i] = INT64_MAX, rows[i] = -1;
    for (int64_t n = 0; n < N; ++n) tie_rows[n] = tie_counts[n] = 0;
  }

  // A row as far as the k-th is too late to enter, but counts as a tie when the k-th is also the nearest.
  int64_t limit(int64_t n) const {
    const int64_t best = distances[n * k], kth = distances[n * k + k - 1];
    return kth > best ? kth - 1 : kth;
  }

  // The same, knowing that a row at distance `least` is at hand: a farther one is not the nearest, nor ties with it.
  int64_t limit(int64_t n, int64_t least) const { return k == 1 && least < distances[n] ? least : limit(n); }

  void take(int64_t n, int64_t row, int64_t distance) const {
    int64_t *d = distances + n * k, *r = rows + n * k;
    if (distance < d[0]) tie_rows[n] = tie_counts[n] = 0;
    if (distance <= d[0]) {
      tie_rows[n] += 1;
      tie_counts[n] += multiplicity[row];
    }
    if (distance >= d[k - 1]) return;
    int64_t i = k - 1;
    for (; i > 0 && d[i - 1] > distance; --i) d[i] = d[i - 1], r[i] = r[i - 1];
    d[i] = distance;
    r[i] = row;
  }
};

struct WithinSink : KnnWithin {
  explicit WithinSink(const KnnWithin& within, int64_t N) : KnnWithin(within) {
    for (int64_t n = 0; n < N; ++n) cursor[n] = offsets[n];
  }

  int64_t limit(int64_t n) const { return radius[n]; }
  int64_t limit(int64_t n, int64_t) const { return radius[n]; }

  void take(int64_t n, int64_t row, int64_t) const {
    if (cursor[n] < offsets[n + 1]) rows[cursor[n]] = row;
    ++cursor[n];
  }
};

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
