// The rows of floats that lie hardly farther from a query than its nearest one, found in one search.
#pragma once
#include <cmath>
#include <cstdint>

#include "cpu/knn.h"
#include "cpu/simd-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

// Gives a query up that fills its list with rows which matter, more than half of it so that compaction is seldom, or of
// which the screen leaves too many rows open.
struct FloatBandTaker : FloatBand {
  int64_t features;

  FloatBandTaker(const FloatBand& band, int64_t N, int64_t features) : FloatBand(band), features(features) {
    for (int64_t n = 0; n < N; ++n) counts[n] = tries[n] = 0, nearest[n] = reaches[n] = INFINITY;
  }

  double reach(int64_t n) const { return reaches[n]; }

  bool may_try(int64_t n) const {
    if (tries[n]++ < most_tries) return true;
    give_up(n);
    return false;
  }

  void take(int64_t n, int64_t row, double value) const {
    if (value < nearest[n]) {
      nearest[n] = value;
      reaches[n] = farthest(n);
    }
    if (counts[n] == capacity) {
      compact(n);
      if (counts[n] > capacity / 2) return give_up(n);
    }
    rows[n * capacity + counts[n]] = row;
    values[n * capacity + counts[n]++] = value;
  }

  // A row at |z - y|^2 <= min + bands, z within rests of the query: as far from the query as this, rounded up.
  double farthest(int64_t n) const {
    const double least = std::sqrt(nearest[n]) + rests[n];
    const double far = std::sqrt(least * least + bands[n]) + rests[n];
    return far * far * (1 + static_cast<double>(features + 32) * 0x1p-50);
  }

  void give_up(int64_t n) const { counts[n] = -1, reaches[n] = -1; }

  void compact(int64_t n) const {
    int64_t kept = 0;
    for (int64_t i = n * capacity; i < n * capacity + counts[n]; ++i)
      if (values[i] <= reaches[n]) {
        rows[n * capacity + kept] = rows[i];
        values[n * capacity + kept++] = values[i];
      }
    counts[n] = kept;
  }
};

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
