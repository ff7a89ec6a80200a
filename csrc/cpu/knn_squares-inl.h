// Squared distances of bytes by integer products: a tile of products, a test whether any of them can matter, a slow
// path.
//
// With a = x - 128, |x - y|^2 = |x|^2 + c - 2 a.y, c = sum of y (y - 256). The accumulators of a.y start at
// h = floor(-c / 2), so that one comparison with ceil((|x|^2 - 1 - limit) / 2) tells whether a row can be within a
// limit.
#pragma once
#include <cstdint>
#include <cstring>

#include "cpu/knn.h"
#include "cpu/simd-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

// A step is what one 32-bit lane holds of a row: four bytes where there are instructions for unsigned times signed
// bytes (those before VNNI saturate), else two int16. Accumulators fill the registers and leave room for a step of the
// panel.
#if defined(__AVX512VNNI__)
constexpr int kStepFeatures = 4, kGroup = 8;
#else
constexpr int kStepFeatures = 2, kGroup = 4;
#endif
constexpr int kVectors = 3, kPanel = kVectors * kLanes<int32_t>;
constexpr int kFourSteps = 4 * kStepFeatures;
// A tile never exceeds int32 in one go of this many features: |a.y| <= 128 * 255 and 0 <= h <= 8192 for each.
constexpr int64_t kChunkSteps = 32768 / kStepFeatures;

typedef int32_t Steps __attribute__((vector_size(16)));  // four steps of a row
typedef int16_t Shorts __attribute__((vector_size(16)));

inline Steps load_steps(const uint8_t* features) {
  Steps steps;
#if defined(__AVX512VNNI__)
  std::memcpy(&steps, features, 16);
#else
  typedef uint8_t Eight __attribute__((vector_size(8)));
  Eight eight;
  std::memcpy(&eight, features, 8);
  steps = (Steps) __builtin_convertvector(eight, Shorts);
#endif
  return steps;
}

// The features of four steps, or of a vector of them, minus 128.
template <class V>
inline V shifted(V steps) {
#if defined(__AVX512VNNI__)
  return steps ^ static_cast<int32_t>(0x80808080u);
#else
  typedef int16_t Halves __attribute__((vector_size(sizeof(V))));
  return (V)((Halves)steps - 128);
#endif
}

// sum + the products of the unsigned features of y and the signed ones of a.
inline Vec<int32_t> add_products(Vec<int32_t> sum, Vec<int32_t> y, Vec<int32_t> a) {
#if defined(__AVX512VNNI__)
  return (Vec<int32_t>)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)y, (__m512i)a);
#elif defined(__AVX2__)
  return sum + (Vec<int32_t>)_mm256_madd_epi16((__m256i)y, (__m256i)a);
#elif defined(__SSE2__)
  return sum + (Vec<int32_t>)_mm_madd_epi16((__m128i)y, (__m128i)a);
#else
  return sum + (y >> 16) * (a >> 16) + ((y << 16) >> 16) * ((a << 16) >> 16);
#endif
}

// One bit a lane where a >= b.
inline uint64_t at_least(Vec<int32_t> a, Vec<int32_t> b) {
#if defined(__AVX512BW__)
  return _mm512_cmpge_epi32_mask((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)(a >= b)));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps((__m128)(a >= b)));
#else
  uint64_t mask = 0;
  for (int i = 0; i < kLanes<int32_t>; ++i) mask |= uint64_t{a[i] >= b[i]} << i;
  return mask;
#endif
}

inline int64_t steps_of(int64_t features) { return (features + kFourSteps - 1) / kFourSteps * 4; }

// Rows as lane[step][width], those of a query `centered` by 128. The last steps are filled with zeros, which in the
// reference are no part of any product or sum; the last rows with copies of a row.
template <int width, bool centered>
void pack_steps(const uint8_t* rows, int64_t count, int64_t features, int32_t* lanes) {
  constexpr int64_t kBlock = 64;  // a cache line of every row, so that what is written stays in the first cache
  for (int64_t block = 0; block < features; block += kBlock)
    for (int64_t row = 0; row < width; row += 4)
      for (int64_t at = block; at < features && at < block + kBlock; at += kFourSteps) {
        Steps r[4];
        for (int i = 0; i < 4; ++i) {
          const uint8_t* from = rows + (row + i < count ? row + i : count - 1) * features + at;
          uint8_t last[16];
          if (at + kFourSteps > features) {
            std::memset(last, 0, sizeof last);
            std::memcpy(last, from, static_cast<size_t>(features - at));
            from = last;
          }
          r[i] = centered ? shifted(load_steps(from)) : load_steps(from);
        }
        const Steps a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5),
                    b = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
        const Steps c = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7),
                    d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
        const Steps across[4] = {__builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
                                 __builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7)};
        for (int i = 0; i < 4; ++i) std::memcpy(lanes + (at / kStepFeatures + i) * width + row, &across[i], 16);
      }
}

// Reference rows side by side, lane[step][kPanel], and what their distances begin with.
struct Panel {
  int32_t* lanes;
  int32_t* start;     // h; 0 where a tile takes more than one go
  int64_t* constant;  // c + 2 h
  int64_t steps;

  void pack(const uint8_t* rows, int64_t count, int64_t features) const {
    pack_steps<kPanel, false>(rows, count, features, lanes);
    for (int row = 0; row < kPanel; ++row) constant[row] = 0;
    for (int64_t begin = 0; begin < steps; begin += kChunkSteps)
      add_constants(begin, begin + kChunkSteps < steps ? begin + kChunkSteps : steps);
    for (int row = 0; row < kPanel; ++row) {
      const int64_t h = steps <= kChunkSteps ? -constant[row] >> 1 : 0;
      start[row] = static_cast<int32_t>(h);
      constant[row] += 2 * h;
    }
  }

  void add_constants(int64_t begin, int64_t end) const {
    const Vec<int32_t> ones = splat<int32_t>(kStepFeatures == 4 ? 0x01010101 : 0x00010001);
    Vec<int32_t> product[kVectors] = {}, sum[kVectors] = {};  // of y (y - 128) and of y
    for (int64_t step = begin; step < end; ++step)
      for (int v = 0; v < kVectors; ++v) {
        const Vec<int32_t> y = load(lanes + step * kPanel + v * kLanes<int32_t>);
        product[v] = add_products(product[v], y, shifted(y));
        sum[v] = add_products(sum[v], y, ones);
      }
    for (int row = 0; row < kPanel; ++row) {
      const int v = row / kLanes<int32_t>, i = row % kLanes<int32_t>;
      constant[row] += product[v][i] - int64_t{128} * sum[v][i];
    }
  }
};

// sum[q][v] += a.y over the steps begin .. end of a group of queries, lane[step][kGroup], and a panel.
inline void add_tile(const int32_t* group, const int32_t* panel, int64_t begin, int64_t end,
                     Vec<int32_t> (&sum)[kGroup][kVectors]) {
  for (int64_t step = begin; step < end; ++step) {
    Vec<int32_t> y[kVectors];
    for (int v = 0; v < kVectors; ++v) y[v] = load(panel + step * kPanel + v * kLanes<int32_t>);
    for (int q = 0; q < kGroup; ++q) {
      const Vec<int32_t> a = splat(group[step * kGroup + q]);
      for (int v = 0; v < kVectors; ++v) sum[q][v] = add_products(sum[q][v], y[v], a);
    }
  }
}

// The least sum that a row within the limit can have. Too low for a limit below 0, which take_rows refuses.
inline int32_t least_sum(int64_t square, int64_t limit) {
  const int64_t least = (square - (limit < -1 ? -1 : limit)) >> 1;
  return static_cast<int32_t>(least < INT32_MIN ? INT32_MIN : least);
}

// Hands one query's rows of a panel that may be within the limit (`hits`, a bit a row) to the sink, which may lower it.
template <class Sum, class Sink>
__attribute__((noinline)) void take_rows(const Sink& sink, int64_t n, int64_t first, uint64_t hits, int64_t square,
                                         const int64_t* constant, const Sum* sums) {
  for (int64_t limit = sink.limit(n); hits; hits &= hits - 1) {
    const int row = __builtin_ctzll(hits);
    const int64_t distance = square + constant[row] - 2 * static_cast<int64_t>(sums[row]);
    if (distance > limit) continue;
    sink.take(n, first + row, distance);
    limit = sink.limit(n);
  }
}

template <class Sink>
void search_squares(const KnnRows& rows, const Sink& sink) {
  const int64_t N = rows.N, features = rows.features, steps = steps_of(features);
  const int64_t groups = (N + kGroup - 1) / kGroup;
  const uint8_t* const source = static_cast<const uint8_t*>(rows.query);
  int32_t* const query = static_cast<int32_t*>(rows.scratch);
  int32_t* const lanes = query + groups * kGroup * steps;
  int64_t* const squares = reinterpret_cast<int64_t*>(lanes + kPanel * steps);
  int64_t* const constant = squares + groups * kGroup;
  int32_t* const least = reinterpret_cast<int32_t*>(constant + kPanel);
  const Panel panel{lanes, least + groups * kGroup, constant, steps};

  for (int64_t group = 0; group < groups; ++group)
    pack_steps<kGroup, true>(source + group * kGroup * features, N - group * kGroup, features,
                             query + group * kGroup * steps);
  for (int64_t n = 0; n < groups * kGroup; ++n) {
    int64_t square = 0;  // not in memory, which the bytes of the query might alias
    for (int64_t k = 0; n < N && k < features; ++k) square += source[n * features + k] * source[n * features + k];
    squares[n] = square;
    least[n] = n < N ? least_sum(squares[n], sink.limit(n)) : INT32_MAX;  // no row is near to what fills the last group
  }

  const uint8_t* const reference = static_cast<const uint8_t*>(rows.reference);
  for (int64_t first = 0; first < rows.M; first += kPanel) {
    const int64_t count = rows.M - first < kPanel ? rows.M - first : kPanel;
    const uint64_t present = (uint64_t{1} << count) - 1;
    panel.pack(reference + first * features, count, features);
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t n = group * kGroup;
      if (steps > kChunkSteps) {
        int64_t sums[kGroup][kPanel] = {};
        for (int64_t begin = 0; begin < steps; begin += kChunkSteps) {
          Vec<int32_t> part[kGroup][kVectors] = {};
          add_tile(query + n * steps, lanes, begin, begin + kChunkSteps < steps ? begin + kChunkSteps : steps, part);
          for (int q = 0; q < kGroup; ++q)
            for (int row = 0; row < kPanel; ++row)
              sums[q][row] += part[q][row / kLanes<int32_t>][row % kLanes<int32_t>];
        }
        for (int q = 0; q < kGroup && n + q < N; ++q)
          take_rows(sink, n + q, first, present, squares[n + q], constant, sums[q]);
        continue;
      }
      Vec<int32_t> sum[kGroup][kVectors];
      for (int v = 0; v < kVectors; ++v) {
        const Vec<int32_t> start = load(panel.start + v * kLanes<int32_t>);
        for (int q = 0; q < kGroup; ++q) sum[q][v] = start;
      }
      add_tile(query + n * steps, lanes, 0, steps, sum);
      for (int q = 0; q < kGroup; ++q) {
        uint64_t hits = 0;
        for (int v = 0; v < kVectors; ++v) hits |= at_least(sum[q][v], splat(least[n + q])) << (v * kLanes<int32_t>);
        if (__builtin_expect((hits & present) == 0, 1)) continue;
        alignas(64) int32_t sums[kPanel];
        for (int v = 0; v < kVectors; ++v) store(sums + v * kLanes<int32_t>, sum[q][v]);
        take_rows(sink, n + q, first, hits & present, squares[n + q], constant, sums);
        least[n + q] = least_sum(squares[n + q], sink.limit(n + q));
      }
    }
  }
}

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
