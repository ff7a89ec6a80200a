// The empirical denoiser over all rows: products in double give the logits, products in single precision the mean.
//
// With x' = x - s c and y' = y - c the logits are, up to what is common to all rows, log p - a |y'|^2 + q.y' with
// a = s^2 / (2 sigma^2), q = s x' / sigma^2. A panel of rows after the other: its logits, its weights below the largest
// logit so far, its part of the weighted sum. Nothing of a query depends on the others.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/empirical_denoise.h"
#include "cpu/exp_weight-inl.h"
#include "cpu/simd-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

// A tile: accumulators fill the registers and leave room for what they are made of.
#if defined(__AVX512BW__)
constexpr int kTileQueries = 8;
#else
constexpr int kTileQueries = 4;
#endif
constexpr int kTileVectors = 3;
constexpr int kTileRows = kTileVectors * kLanes<double>, kTileFeatures = kTileVectors * kLanes<float>;
static_assert(kDenoisePanel % kTileRows == 0, "a panel is whole tiles");

typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
typedef double Pair __attribute__((vector_size(16)));

inline Pair load_pair(const double* from) {
  Pair pair;
  std::memcpy(&pair, from, sizeof pair);
  return pair;
}

inline Pair load_pair(const float* from) {
  typedef float Floats __attribute__((vector_size(8)));
  Floats floats;
  std::memcpy(&floats, from, sizeof floats);
  return __builtin_convertvector(floats, Pair);
}

// scores[query][kDenoisePanel] += q.y over `depth` features of a group of queries, lane[feature][kTileQueries], and of
// as many rows as a tile has, lane[feature][kTileRows].
inline void add_scores(const double* group, const double* rows, int64_t depth, double* scores) {
  Vec<double> sum[kTileQueries][kTileVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec<double> y[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) y[v] = load(rows + k * kTileRows + v * kLanes<double>);
    for (int n = 0; n < kTileQueries; ++n) {
      const Vec<double> q = splat(group[k * kTileQueries + n]);
      for (int v = 0; v < kTileVectors; ++v) sum[n][v] = multiply_add(q, y[v], sum[n][v]);
    }
  }
  for (int n = 0; n < kTileQueries; ++n)
    for (int v = 0; v < kTileVectors; ++v) {
      double* const to = scores + n * kDenoisePanel + v * kLanes<double>;
      store(to, load(to) + sum[n][v]);
    }
}

// sums[query][kTileFeatures] += weights[query][row] y[row][kTileFeatures]: in single precision over one panel, then
// double.
inline void add_weighted(const float* weights, const float* strip, double* sums) {
  Vec<float> sum[kTileQueries][kTileVectors] = {};
  for (int64_t row = 0; row < kDenoisePanel; ++row) {
    Vec<float> y[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) y[v] = load(strip + row * kTileFeatures + v * kLanes<float>);
    for (int n = 0; n < kTileQueries; ++n) {
      const Vec<float> w = splat(weights[n * kDenoisePanel + row]);
      for (int v = 0; v < kTileVectors; ++v) sum[n][v] = multiply_add(w, y[v], sum[n][v]);
    }
  }
  for (int n = 0; n < kTileQueries; ++n)
    for (int v = 0; v < kTileVectors; ++v) {
      Half halves[2];
      std::memcpy(halves, &sum[n][v], sizeof halves);
      for (int h = 0; h < 2; ++h) {
        double* const to = sums + n * kTileFeatures + v * kLanes<float> + h * kLanes<double>;
        store(to, load(to) + __builtin_convertvector(halves[h], Vec<double>));
      }
    }
}

template <class T>
struct DenseSums {
  const DenoiseRows& rows;
  const DenoiseQueries& queries;
  int64_t N, D, strips;  // N: whole groups
  double *q, *sums, *scores, *packed, *top, *total, *total_squares, *factor;
  double *row_squares, *row_log_p;  // of a panel
  float *weights, *strip;

  DenseSums(const DenoiseRows& rows, const DenoiseQueries& queries, void* scratch)
      : rows(rows),
        queries(queries),
        N((queries.N + kTileQueries - 1) / kTileQueries * kTileQueries),
        D(rows.D),
        strips((D + kTileFeatures - 1) / kTileFeatures) {
    double* next = static_cast<double*>(scratch);
    const auto take = [&next](int64_t count) { return next += count, next - count; };
    q = take(N * D);
    sums = take(N * strips * kTileFeatures);
    scores = take(N * kDenoisePanel);
    packed = take(kDenoisePanel * kDenoiseDepth);
    top = take(N), total = take(N), total_squares = take(N), factor = take(N);
    row_squares = take(kDenoisePanel), row_log_p = take(kDenoisePanel);
    weights = reinterpret_cast<float*>(next);
    strip = weights + N * kDenoisePanel;
    std::memset(sums, 0, static_cast<size_t>(N * strips * kTileFeatures) * sizeof(double));
    std::memset(q, 0, static_cast<size_t>(N * D) * sizeof(double));
    for (int64_t n = 0; n < N; ++n) {
      top[n] = -INFINITY, total[n] = total_squares[n] = factor[n] = 0;
      if (n >= queries.N) continue;
      const double s = queries.scale[n], variance = queries.sigma[n] * queries.sigma[n];
      factor[n] = s * s / (2 * variance);
      double* const to = q + n / kTileQueries * kTileQueries * D + n % kTileQueries;
      for (int64_t k = 0; k < D; ++k)
        to[k * kTileQueries] = std::fma(-s, rows.center[k], queries.x[n * D + k]) * (s / variance);
    }
  }

  // A panel's rows y' of the features begin .. end as lane[tile][feature][kTileRows]; rows that do not exist are
  // copies.
  void pack_rows(int64_t first, int64_t count, int64_t begin, int64_t end) const {
    constexpr int64_t kBlock = 16;  // features of a row at a time, so that what is written stays in the first cache
    const auto row_at = [&](int64_t row) {
      return static_cast<const T*>(rows.rows) + (first + (row < count ? row : count - 1)) * D;
    };
    for (int64_t tile = 0; tile < kDenoisePanel; tile += kTileRows)
      for (int64_t block = begin; block < end; block += kBlock)
        for (int64_t row = tile; row < tile + kTileRows; row += 2) {
          const T *const a = row_at(row), *const b = row_at(row + 1);
          double* const to = packed + tile * kDenoiseDepth + (block - begin) * kTileRows + row - tile;
          const int64_t features = end - block < kBlock ? end - block : kBlock;
          int64_t k = 0;
          for (; k + 2 <= features; k += 2) {
            const Pair c = load_pair(rows.center + block + k), x = load_pair(a + block + k) - c,
                       y = load_pair(b + block + k) - c;
            const Pair even = __builtin_shufflevector(x, y, 0, 2), odd = __builtin_shufflevector(x, y, 1, 3);
            std::memcpy(to + k * kTileRows, &even, sizeof even);
            std::memcpy(to + (k + 1) * kTileRows, &odd, sizeof odd);
          }
          if (k < features) {
            to[k * kTileRows] = static_cast<double>(a[block + k]) - rows.center[block + k];
            to[k * kTileRows + 1] = static_cast<double>(b[block + k]) - rows.center[block + k];
          }
        }
  }

  // The features begin .. of the same rows, in single precision, as lane[row][kTileFeatures].
  void pack_strip(int64_t first, int64_t count, int64_t begin) const {
    const int64_t features = D - begin < kTileFeatures ? D - begin : kTileFeatures;
    std::memset(strip, 0, kDenoisePanel * kTileFeatures * sizeof(float));
    for (int64_t row = 0; row < count; ++row) {
      const T* const y = static_cast<const T*>(rows.rows) + (first + row) * D + begin;
      for (int64_t k = 0; k < features; ++k)
        strip[row * kTileFeatures + k] = static_cast<float>(static_cast<double>(y[k]) - rows.center[begin + k]);
    }
  }

  // The logits of a panel become weights below the largest logit so far.
  void weigh(int64_t n) const {
    constexpr int kVectors = kDenoisePanel / kLanes<double>;
    double* const score = scores + n * kDenoisePanel;
    const Vec<double> a = splat(-factor[n]);
    Vec<double> largest = splat<double>(-INFINITY);
    for (int v = 0; v < kVectors; ++v) {
      const int at = v * kLanes<double>;
      const Vec<double> logit = load(score + at) + multiply_add(a, load(row_squares + at), load(row_log_p + at));
      store(score + at, logit);
      largest = logit > largest ? logit : largest;
    }
    double highest = top[n];
    for (int i = 0; i < kLanes<double>; ++i) highest = largest[i] > highest ? largest[i] : highest;
    if (highest > top[n]) raise(n, highest);
    Vec<double> sum = {}, sum_squares = {};
    float* const weight = weights + n * kDenoisePanel;
    for (int v = 0; v < kVectors; ++v) {
      const Vec<double> w = exp_weight(load(score + v * kLanes<double>) - highest);
      sum += w;
      sum_squares += w * w;
      const auto narrow = __builtin_convertvector(w, Half);
      std::memcpy(weight + v * kLanes<double>, &narrow, sizeof narrow);
    }
    for (int i = 0; i < kLanes<double>; ++i) total[n] += sum[i], total_squares[n] += sum_squares[i];
  }

  // What was summed before is given below the logit `highest`.
  void raise(int64_t n, double highest) const {
    const double shrink = std::exp(top[n] - highest);
    top[n] = highest;
    if (total[n] == 0) return;
    total[n] *= shrink;
    total_squares[n] *= shrink * shrink;
    for (int64_t s = 0; s < strips; ++s)
      for (int64_t k = 0; k < kTileFeatures; ++k) sums[(s * N + n) * kTileFeatures + k] *= shrink;
  }

  void add_panel(int64_t first) const {
    const int64_t count = rows.M - first < kDenoisePanel ? rows.M - first : kDenoisePanel;
    for (int64_t i = 0; i < kDenoisePanel; ++i) {
      row_squares[i] = i < count ? rows.squares[first + i] : 0;
      row_log_p[i] = i < count ? rows.log_p[first + i] : -INFINITY;
    }
    std::memset(scores, 0, static_cast<size_t>(N * kDenoisePanel) * sizeof(double));
    for (int64_t begin = 0; begin < D; begin += kDenoiseDepth) {
      const int64_t end = begin + kDenoiseDepth < D ? begin + kDenoiseDepth : D;
      pack_rows(first, count, begin, end);
      for (int64_t n = 0; n < N; n += kTileQueries)
        for (int64_t tile = 0; tile < kDenoisePanel; tile += kTileRows)
          add_scores(q + n * D + begin * kTileQueries, packed + tile * kDenoiseDepth, end - begin,
                     scores + n * kDenoisePanel + tile);
    }
    for (int64_t n = 0; n < N; ++n) weigh(n);
    for (int64_t s = 0; s < strips; ++s) {
      pack_strip(first, count, s * kTileFeatures);
      for (int64_t n = 0; n < N; n += kTileQueries)
        add_weighted(weights + n * kDenoisePanel, strip, sums + (s * N + n) * kTileFeatures);
    }
  }

  void finish(const DenoiseOut& out) const {
    for (int64_t n = 0; n < queries.N; ++n) {
      const double s = queries.scale[n], sigma = queries.sigma[n];
      double square = 0;
      for (int64_t k = 0; k < D; ++k) {
        const double x = std::fma(-s, rows.center[k], queries.x[n * D + k]);
        square += x * x;
        const double sum = sums[(k / kTileFeatures * N + n) * kTileFeatures + k % kTileFeatures];
        out.x0_hat[n * D + k] = rows.center[k] + sum / total[n];
      }
      out.log_density[n] = top[n] + std::log(total[n]) - square / (2 * sigma * sigma) -
                           static_cast<double>(D) * (std::log(sigma) + kLogRoot2Pi);
      out.effective[n] = total[n] * total[n] / total_squares[n];
    }
  }
};

template <class T>
void dense(const DenoiseRows& rows, const DenoiseQueries& queries, const DenoiseOut& out, void* scratch) {
  const DenseSums<T> sums(rows, queries, scratch);
  for (int64_t first = 0; first < rows.M; first += kDenoisePanel) sums.add_panel(first);
  sums.finish(out);
}

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
