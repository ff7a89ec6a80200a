// The empirical denoiser of tokens, rows that are one-hot: logits and sums by looking symbols up, for many queries at a
// time.
//
// With a the nearest of all strings to x and one(a) its one-hot row, the logit of a row y is log p - |x - s one(a)|^2 /
// (2 sigma^2)
// - sum_i cost[i][y_i], cost[i][b] = s (x[i, a_i] - x[i, b]) / sigma^2 >= 0: no term cancels another, so that the sum
// errs by its own rounding. The queries are the lanes of the vectors, so one load serves them all, and nothing of a
// query depends on the others.
#pragma once
#include <cmath>
#include <cstdint>

#include "cpu/empirical_denoise.h"
#include "cpu/exp_weight-inl.h"
#include "cpu/simd-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

// Several queries: two vectors, since the sum of a row's costs waits for itself.
constexpr int kTokenVectors = 2, kTokenQueries = kTokenVectors * kLanes<double>;
constexpr int64_t kRun = 8;  // positions between two looks at whether a row still matters
static_assert(kTokenQueries <= kMostTokenQueries, "the scratch is for as many");

struct TokenVector {
  Vec<double> of[kTokenVectors];
};

inline TokenVector load_queries(const double* from) {
  TokenVector x;
  for (int v = 0; v < kTokenVectors; ++v) x.of[v] = load(from + v * kLanes<double>);
  return x;
}

inline void store_queries(double* to, const TokenVector& x) {
  for (int v = 0; v < kTokenVectors; ++v) store(to + v * kLanes<double>, x.of[v]);
}

// Whether any lane of a is above the same lane of b.
inline bool any_above(const TokenVector& a, const TokenVector& b) {
  constexpr uint64_t kEvery = ~uint64_t{0} >> (64 - kVectorBytes);
  uint64_t not_above = kEvery;
  for (int v = 0; v < kTokenVectors; ++v) not_above &= at_most<double>(a.of[v], b.of[v]);
  return not_above != kEvery;
}

template <class T>
struct TokenSums {
  const DenoiseTokens& rows;
  const DenoiseQueries& queries;
  int64_t first;                 // of the queries
  int count;                     // of them
  double *cost, *sums, *logits;  // lane[position][symbol][query], the same, lane[row of a panel][query]
  TokenVector top, total, total_squares;
  double nearest[kTokenQueries];  // |x - s one(a)|^2 / (2 sigma^2)

  TokenSums(const DenoiseTokens& rows, const DenoiseQueries& queries, int64_t first, double* scratch)
      : rows(rows),
        queries(queries),
        first(first),
        count(queries.N - first < kTokenQueries ? static_cast<int>(queries.N - first) : kTokenQueries),
        cost(scratch),
        sums(cost + rows.L * rows.Q * kTokenQueries),
        logits(sums + rows.L * rows.Q * kTokenQueries) {
    const int64_t features = rows.L * rows.Q;
    for (int64_t k = 0; k < features * kTokenQueries; ++k) cost[k] = sums[k] = 0;
    for (int v = 0; v < kTokenVectors; ++v) {
      top.of[v] = splat<double>(-INFINITY);
      total.of[v] = total_squares.of[v] = Vec<double>{};
    }
    for (int n = 0; n < kTokenQueries; ++n) {
      const int64_t query =
          first + (n < count ? n : count - 1);  // copies fill the lanes: they end no later than the rest
      const double s = queries.scale[query], sigma = queries.sigma[query];
      const double* const x = queries.x + query * features;
      double square = 0;
      for (int64_t i = 0; i < rows.L; ++i) {
        const double* const at = x + i * rows.Q;
        int64_t a = 0;
        for (int64_t b = 1; b < rows.Q; ++b) a = at[b] > at[a] ? b : a;
        for (int64_t b = 0; b < rows.Q; ++b) {
          const double t = (b == a ? at[b] - s : at[b]) / sigma;
          square += t * t;
          cost[(i * rows.Q + b) * kTokenQueries + n] = (at[a] - at[b]) / sigma * (s / sigma);
        }
      }
      nearest[n] = square / 2;
    }
  }

  // What was summed before is given below the logits `highest`; by 1 where they are no higher.
  void raise(const TokenVector& highest) {
    double factors[kTokenQueries];
    for (int n = 0; n < kTokenQueries; ++n) {
      const int v = n / kLanes<double>, i = n % kLanes<double>;
      factors[n] = std::exp(top.of[v][i] - highest.of[v][i]);
    }
    const TokenVector shrink = load_queries(factors);
    for (int v = 0; v < kTokenVectors; ++v) {
      total.of[v] *= shrink.of[v];
      total_squares.of[v] *= shrink.of[v] * shrink.of[v];
    }
    top = highest;
    for (int64_t k = 0; k < rows.L * rows.Q; ++k) {
      TokenVector sum = load_queries(sums + k * kTokenQueries);
      for (int v = 0; v < kTokenVectors; ++v) sum.of[v] *= shrink.of[v];
      store_queries(sums + k * kTokenQueries, sum);
    }
  }

  // Rows begin .. end, a panel at most. A row whose costs so far leave it no weight for any query is read no further.
  void add_panel(int64_t begin, int64_t end) {
    const T* y = static_cast<const T*>(rows.tokens) + begin * rows.L;
    TokenVector highest = top, least = below(top);
    for (int64_t row = begin; row < end; ++row, y += rows.L) {
      const TokenVector logit = logit_of(y, rows.log_p[row], least);
      store_queries(logits + (row - begin) * kTokenQueries, logit);
      for (int v = 0; v < kTokenVectors; ++v) highest.of[v] = logit.of[v] > highest.of[v] ? logit.of[v] : highest.of[v];
    }
    if (any_above(highest, top)) {
      raise(highest);
      least = below(top);
    }
    y = static_cast<const T*>(rows.tokens) + begin * rows.L;
    for (int64_t row = begin; row < end; ++row, y += rows.L) {
      const TokenVector logit = load_queries(logits + (row - begin) * kTokenQueries);
      if (any_above(logit, least)) add_row(y, logit, least);
    }
  }

  TokenVector below(const TokenVector& x) const {
    TokenVector least;
    for (int v = 0; v < kTokenVectors; ++v) least.of[v] = x.of[v] + kLeastLogit;
    return least;
  }

  // Where it is at most `least` in every lane, an upper bound of the logit.
  TokenVector logit_of(const T* y, double log_p, const TokenVector& least) const {
    const int64_t position = rows.Q * kTokenQueries;
    TokenVector energy = {}, logit;
    const double* at = cost;
    for (int64_t run = 0; run < rows.L; run += kRun) {
      const int64_t end = run + kRun < rows.L ? run + kRun : rows.L;
      for (int64_t i = run; i < end; ++i, at += position)
        for (int v = 0; v < kTokenVectors; ++v) energy.of[v] += load(at + y[i] * kTokenQueries + v * kLanes<double>);
      for (int v = 0; v < kTokenVectors; ++v) logit.of[v] = log_p - energy.of[v];
      if (!any_above(logit, least)) break;
    }
    return logit;
  }

  void add_row(const T* y, const TokenVector& logit, const TokenVector& least) {
    TokenVector w;
    for (int v = 0; v < kTokenVectors; ++v) {
      // The comparison that reading ends by: a lane's weight is 0 on either side of it, to the bit.
      w.of[v] = (Vec<double>)((Vec<int64_t>)exp_weight(logit.of[v] - top.of[v]) & (logit.of[v] > least.of[v]));
      total.of[v] += w.of[v];
      total_squares.of[v] += w.of[v] * w.of[v];
    }
    double* at = sums;
    for (int64_t i = 0; i < rows.L; ++i, at += rows.Q * kTokenQueries) {
      double* const to = at + y[i] * kTokenQueries;
      TokenVector sum = load_queries(to);
      for (int v = 0; v < kTokenVectors; ++v) sum.of[v] += w.of[v];
      store_queries(to, sum);
    }
  }

  void finish(const DenoiseOut& out) const {
    const int64_t features = rows.L * rows.Q;
    for (int n = 0; n < count; ++n) {
      const int v = n / kLanes<double>, i = n % kLanes<double>;
      const double sum = total.of[v][i];
      for (int64_t k = 0; k < features; ++k) out.x0_hat[(first + n) * features + k] = sums[k * kTokenQueries + n] / sum;
      out.log_density[first + n] = top.of[v][i] + std::log(sum) - nearest[n] -
                                   static_cast<double>(features) * (std::log(queries.sigma[first + n]) + kLogRoot2Pi);
      out.effective[first + n] = sum * sum / total_squares.of[v][i];
    }
  }
};

template <class T>
void of_tokens(const DenoiseTokens& rows, const DenoiseQueries& queries, const DenoiseOut& out, double* scratch) {
  for (int64_t first = 0; first < queries.N; first += kTokenQueries) {
    TokenSums<T> sums(rows, queries, first, scratch);
    for (int64_t row = 0; row < rows.M; row += kTokenPanel)
      sums.add_panel(row, row + kTokenPanel < rows.M ? row + kTokenPanel : rows.M);
    sums.finish(out);
  }
}

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
