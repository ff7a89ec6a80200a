// The kernels of every instruction set that this machine has, against loops without any trick: for the sanitizers, and
// for valgrind, which shows a machine without AVX-512. Usage: kernels_test [BEST], the set that dispatch must call
// best.
#include "tests/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu/fp_state.h"
#include "cpu/isa.h"
#include "cpu/knn.h"
#include "tests/philox_check.h"
#include "tests/trees_test.h"

using namespace biasgen;

namespace {

// What a search must find, from the values of all pairs. `V` is int64_t, or double for rows of floats.
template <class V>
struct Nearest {
  std::vector<V> values;
  std::vector<int64_t> rows, tie_rows, tie_counts;

  Nearest(int64_t N, int64_t k) : values(N * k), rows(N * k), tie_rows(N), tie_counts(N) {}

  Nearest(const std::vector<V>& table, int64_t N, int64_t M, int64_t k, const std::vector<int64_t>& multiplicity)
      : Nearest(N, k) {
    for (int64_t n = 0; n < N; ++n) {
      std::vector<std::pair<V, int64_t>> all;
      for (int64_t m = 0; m < M; ++m) all.emplace_back(table[n * M + m], m);
      std::sort(all.begin(), all.end());
      for (int64_t i = 0; i < k; ++i) values[n * k + i] = all[i].first, rows[n * k + i] = all[i].second;
      for (const auto& [value, m] : all)
        if (value == all[0].first) ++tie_rows[n], tie_counts[n] += multiplicity[m];
    }
  }

  bool operator==(const Nearest& other) const {
    return values == other.values && rows == other.rows && tie_rows == other.tie_rows && tie_counts == other.tie_counts;
  }
};

// Rows of each query within its radius, in one list.
template <class V>
struct Within {
  std::vector<int64_t> offsets{0}, rows;

  Within(const std::vector<V>& table, int64_t N, int64_t M, const std::vector<V>& radius) {
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t m = 0; m < M; ++m)
        if (table[n * M + m] <= radius[n]) rows.push_back(m);
      offsets.push_back(static_cast<int64_t>(rows.size()));
    }
  }
};

std::vector<int64_t> multiplicities(int64_t M) {
  std::vector<int64_t> times(M);
  for (auto& m : times) m = 1 + below(3);
  return times;
}

void test_bytes(const Kernels& kernel, IntegerDistance distance, int64_t N, int64_t M, int64_t features, int64_t bits) {
  const int64_t symbols = int64_t{1} << bits;
  std::vector<uint8_t> query(N * features), reference(M * features);
  for (auto& x : query) x = static_cast<uint8_t>(below(symbols));
  for (auto& x : reference) x = static_cast<uint8_t>(below(symbols));
  std::copy_n(reference.end() - features, features, query.begin());  // a copy, and the last row
  std::vector<int64_t> table(N * M);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t m = 0; m < M; ++m)
      for (int64_t i = 0; i < features; ++i) {
        const int64_t t = query[n * features + i] - reference[m * features + i];
        table[n * M + m] += distance == IntegerDistance::hamming ? t != 0 : t * t;
      }

  const int64_t width = plane_rows(features);
  std::vector<uint8_t> packed((M + width - 1) / width * width * planes_bytes(features, bits));
  if (distance == IntegerDistance::hamming)
    kernel.pack_reference(reference.data(), Element::uint8, M, features, bits, packed.data());
  const auto space = scratch(scratch_bytes(distance, N, features, bits));
  KnnRows rows{};
  rows.element = Element::uint8;
  rows.distance = distance;
  rows.query = query.data();
  rows.reference = distance == IntegerDistance::hamming ? packed.data() : reference.data();
  rows.N = N, rows.M = M, rows.features = features, rows.bits = bits;
  rows.scratch = space.get();

  const auto multiplicity = multiplicities(M);
  for (const int64_t k : {int64_t{1}, std::min<int64_t>(M, 5), std::min<int64_t>(M, 64)}) {
    Nearest<int64_t> found(N, k);
    kernel.knn(rows, {k, multiplicity.data(), found.values.data(), found.rows.data(), found.tie_rows.data(),
                      found.tie_counts.data()});
    check(found == Nearest<int64_t>(table, N, M, k, multiplicity), "nearest rows");
  }
  std::vector<int64_t> radius(N), cursor(N);
  for (int64_t n = 0; n < N; ++n) radius[n] = n % 3 == 2 ? -1 : table[n * M + below(M)];
  const Within<int64_t> within(table, N, M, radius);
  std::vector<int64_t> found(within.rows.size());
  kernel.rows_within(rows, {radius.data(), within.offsets.data(), cursor.data(), found.data()});
  check(found == within.rows && std::equal(cursor.begin(), cursor.end(), within.offsets.begin() + 1), "rows within");
}

// The value of docs/exactness.md: sqeuclidean, or cityblock.
template <class T>
double value(const T* x, const T* y, int64_t features, bool squared = true) {
  double lanes[16] = {};
  for (int64_t i = 0; i < features; ++i) {
    const double t = static_cast<double>(x[i]) - static_cast<double>(y[i]);
    lanes[i % 16] += squared ? t * t : std::fabs(t);
  }
  for (int width = 8; width; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

template <class T>
void test_floats(const Kernels& kernel, int64_t N, int64_t M, int64_t features) {
  std::vector<T> query(N * features), reference(M * features);
  for (auto& x : reference) x = static_cast<T>(below(1 << 20)) / (1 << 19) + 3;
  reference[below(M) * features] = static_cast<T>(1e6);  // an outlier, which no grid of 8 bits holds
  for (int64_t n = 0; n < N; ++n)                        // copies, off by one unit in the last place here and there
    for (int64_t i = 0; i < features; ++i) {
      const T x = reference[(n * 7 % M) * features + i];
      query[n * features + i] = n % 2 && i % 5 == 0 ? std::nextafter(x, T{9}) : x;
    }
  std::vector<double> table(N * M);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t m = 0; m < M; ++m) table[n * M + m] = value(&query[n * features], &reference[m * features], features);

  const std::vector<double> center(features, 4.0);
  std::vector<uint8_t> codes(M * features), query_codes(N * features);
  std::vector<double> residuals(M), query_residuals(N);
  std::vector<int64_t> limits(N), outlying;
  FloatCodes to{};
  to.distance = FloatDistance::sqeuclidean, to.element = sizeof(T) == 8 ? Element::float64 : Element::float32;
  to.rows = reference.data(), to.N = M, to.features = features;
  to.center = center.data(), to.unit = 0x1p-7;
  to.codes = codes.data(), to.residuals = residuals.data();
  kernel.encode(to);
  auto sorted = residuals;
  std::sort(sorted.begin(), sorted.end());
  const double usual = 2 * sorted[M / 2];
  for (int64_t m = 0; m < M; ++m)
    if (residuals[m] > usual) outlying.push_back(m);

  const auto space = scratch(scratch_bytes(IntegerDistance::sqeuclidean, N, features, 8));
  FloatRows rows{};
  rows.distance = to.distance, rows.element = to.element, rows.query = query.data(), rows.reference = reference.data();
  rows.N = N, rows.M = M, rows.features = features;
  rows.center = to.center, rows.unit = to.unit;
  rows.reference_codes = codes.data(), rows.reference_residuals = residuals.data(), rows.usual_residual = usual;
  rows.outlying = outlying.data(), rows.outliers = static_cast<int64_t>(outlying.size());
  rows.query_codes = query_codes.data(), rows.query_residuals = query_residuals.data(), rows.limits = limits.data();
  rows.scratch = space.get();
  const auto multiplicity = multiplicities(M);
  for (const int64_t k : {int64_t{1}, std::min<int64_t>(M, 5)}) {
    Nearest<double> found(N, k);
    kernel.knn_floats(rows, {k, multiplicity.data(), found.values.data(), found.rows.data(), found.tie_rows.data(),
                             found.tie_counts.data()});
    check(found == Nearest<double>(table, N, M, k, multiplicity), "nearest rows");
  }
  std::vector<double> radius(N);
  std::vector<int64_t> cursor(N);
  for (int64_t n = 0; n < N; ++n) radius[n] = table[n * M + below(M)];
  const Within<double> within(table, N, M, radius);
  std::vector<int64_t> found(within.rows.size());
  kernel.floats_within(rows, {radius.data(), within.offsets.data(), cursor.data(), found.data()});
  check(found == within.rows && std::equal(cursor.begin(), cursor.end(), within.offsets.begin() + 1), "rows within");
}

// V: int64_t between bytes, else double.
template <class V, class Nearest, class Within, class T>
void test_direct(void (*knn)(const DirectRows&, const Nearest&), void (*within)(const DirectRows&, const Within&),
                 DirectDistance distance, int64_t N, int64_t M, int64_t features) {
  std::vector<T> query(N * features), reference(M * features);
  for (auto& x : reference) x = static_cast<T>(below(256)) / (sizeof(T) == 1 ? 1 : 3);
  for (int64_t n = 0; n < N; ++n)  // off in one feature, or a copy
    for (int64_t i = 0; i < features; ++i)
      query[n * features + i] = reference[(n * 7 % M) * features + i] + static_cast<T>(n % 2 && i == n % features);
  const auto space = scratch(direct_scratch_bytes(N));
  DirectRows rows{};
  rows.distance = distance;
  rows.element = sizeof(T) == 1 ? Element::uint8 : sizeof(T) == 4 ? Element::float32 : Element::float64;
  rows.features = features, rows.scratch = space.get();
  std::vector<V> table(N * M);
  const auto multiplicity = multiplicities(M);
  rows.N = rows.M = 1;
  for (int64_t n = 0; n < N; ++n)
    for (int64_t m = 0; m < M; ++m) {  // each pair by itself
      ::Nearest<V> one(1, 1);
      rows.query = &query[n * features], rows.reference = &reference[m * features];
      knn(rows,
          {1, multiplicity.data(), &table[n * M + m], one.rows.data(), one.tie_rows.data(), one.tie_counts.data()});
      if (distance == DirectDistance::cityblock)
        check(
            table[n * M + m] == static_cast<V>(value(&query[n * features], &reference[m * features], features, false)),
            "values");
    }
  rows.query = query.data(), rows.reference = reference.data(), rows.N = N, rows.M = M;
  for (const int64_t k : {int64_t{1}, std::min<int64_t>(M, 5), std::min<int64_t>(M, 64)}) {
    ::Nearest<V> found(N, k);
    knn(rows, {k, multiplicity.data(), found.values.data(), found.rows.data(), found.tie_rows.data(),
               found.tie_counts.data()});
    check(found == ::Nearest<V>(table, N, M, k, multiplicity), "nearest rows");
  }
  std::vector<V> radius(N);
  std::vector<int64_t> cursor(N);
  for (int64_t n = 0; n < N; ++n) radius[n] = n % 3 == 2 ? -1 : table[n * M + below(M)];
  const ::Within<V> wanted(table, N, M, radius);
  std::vector<int64_t> found(wanted.rows.size());
  within(rows, {radius.data(), wanted.offsets.data(), cursor.data(), found.data()});
  check(found == wanted.rows && std::equal(cursor.begin(), cursor.end(), wanted.offsets.begin() + 1), "rows within");
}

void test_every_direct(const Kernels& kernel, int64_t N, int64_t M, int64_t features) {
  for (size_t i = 0; i < std::size(kDirectDistances); ++i) {
    const auto distance = static_cast<DirectDistance>(i);
    test_direct<int64_t, KnnNearest, KnnWithin, uint8_t>(kernel.direct_knn, kernel.direct_within, distance, N, M,
                                                         features);
    test_direct<double, FloatNearest, FloatWithin, float>(kernel.direct_floats_knn, kernel.direct_floats_within,
                                                          distance, N, M, features);
    test_direct<double, FloatNearest, FloatWithin, double>(kernel.direct_floats_knn, kernel.direct_floats_within,
                                                           distance, N, M, features);
  }
}

void test_dispatch(const char* best) {
  doing = "dispatch";
  const auto levels = isa_levels();
  const std::vector<std::string> known{"baseline", "avx2", "avx512"};
  check(!levels.empty() && levels.size() <= 3 && std::equal(levels.begin(), levels.end(), known.begin()), "order");
  for (size_t i = 0; i < levels.size(); ++i) check(parse_isa(levels[i]) == static_cast<Isa>(i), "names");
  check(best == nullptr || levels.back() == best, "the best set is another one");
  for (const std::string name : {"avx1024", "", levels.size() < 3 ? "avx512" : "AVX512"}) {
    bool refused = false;
    try {
      parse_isa(name);
    } catch (const std::invalid_argument&) {
      refused = true;
    }
    check(refused, "what cannot run is refused");
  }
#if defined(__SSE2__)
  doing = "floating-point mode";
  const uint32_t before = _mm_getcsr(), down = 0x3F80;  // rounding is a part of the mode that valgrind emulates
  _mm_setcsr(down);
  {
    const DefaultFpState mode;
    check(_mm_getcsr() == 0x1F80, "default within");
  }
  check(_mm_getcsr() == down, "the caller's comes back");
  _mm_setcsr(before);
#endif
}

}  // namespace

int main(int argc, char** argv) {
  test_dispatch(argc > 1 ? argv[1] : nullptr);
  for (const auto& level : isa_levels()) {
    const Kernels kernel = kernels(parse_isa(level));
    // Panels are of 12, 24, 48 rows (squares), 32 or 8 (planes); tiles of eight panels; groups of 4 or 8 queries.
    for (const int64_t features : {1, 15, 16, 17, 65})
      for (const auto& [N, M] : {std::pair<int64_t, int64_t>{1, 1}, {3, 13}, {9, 49}, {8, 257}}) {
        const std::string shape =
            ", " + std::to_string(N) + " x " + std::to_string(M) + " x " + std::to_string(features);
        for (const int64_t bits : {1, 3, 8}) {
          doing = level + ", hamming" + shape + ", bits " + std::to_string(bits);
          test_bytes(kernel, IntegerDistance::hamming, N, M, features, bits);
          doing = level + ", sqeuclidean" + shape + ", bits " + std::to_string(bits);
          test_bytes(kernel, IntegerDistance::sqeuclidean, N, M, features, bits);
        }
        doing = level + ", floats" + shape;
        test_floats<float>(kernel, N, M, features);
        test_floats<double>(kernel, N, M, features);
        doing = level + ", direct" + shape;
        test_every_direct(kernel, N, M, features);
      }
    doing = level + ", direct, long rows";
    test_every_direct(kernel, 3, 5, 3000);
    doing = level + ", beyond int32";
    test_bytes(kernel, IntegerDistance::sqeuclidean, 2, 3, 32769, 8);
    for (const auto& [B, L, Q] : {std::tuple<int64_t, int64_t, int64_t>{1, 2, 1}, {5, 2, 5}, {17, 4, 3}, {2, 8, 2}}) {
      doing = level + ", tree " + std::to_string(B) + " x " + std::to_string(L) + " x " + std::to_string(Q);
      test_tree<2, float>(kernel, B, L, Q);
      test_tree<2, double>(kernel, B, L, Q);
    }
    doing = level + ", normals";
    for (const auto& [n, blocks] :
         {std::pair<int64_t, int64_t>{1, 1}, {3, 24}, {5, 13}, {64, 1}, {2, 256}, {0, 3}, {3, 0}})
      check_normals(kernel.philox_normals, n, blocks, check);
    doing = level + ", tree with three children";
    test_tree<3, float>(kernel, 17, 9, 2);
    test_tree<3, double>(kernel, 5, 3, 4);
    doing = level + ", tree with four children";
    test_tree<4, float>(kernel, 17, 16, 2);
    test_tree<4, double>(kernel, 5, 4, 4);
  }
  std::string all;
  for (const auto& level : isa_levels()) all += " " + level;
  std::printf("kernels_test:%s agree with the naive loops, %lld checks\n", all.c_str(), static_cast<long long>(checks));
}
