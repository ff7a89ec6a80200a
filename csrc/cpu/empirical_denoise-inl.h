// The empirical denoiser: sums over a few listed rows by direct differences, and the entry points of one instruction
// set.
#pragma once
#include <cmath>
#include <cstdint>

#include "cpu/empirical_denoise.h"
#include "cpu/empirical_dense-inl.h"
#include "cpu/empirical_tokens-inl.h"
#include "cpu/row_values-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

// |x' - s (y - c)|^2 in 4 vectors of lanes; x' = x - s c.
template <class T>
double shifted_square(const double* x, double s, const T* y, const double* center, int64_t D) {
  constexpr int64_t kStep = kLanes<double>;
  Vec<double> sum[4] = {};
  const Vec<double> scale = splat(-s);
  const auto add = [&](int v, int64_t k) {
    const Vec<double> t = multiply_add(scale, load_doubles(y + k) - load(center + k), load(x + k));
    sum[v] += t * t;
  };
  int64_t k = 0;
  for (; k + 4 * kStep <= D; k += 4 * kStep)
    for (int v = 0; v < 4; ++v) add(v, k + v * kStep);
  for (; k + kStep <= D; k += kStep) add(0, k);
  const Vec<double> all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  double total = 0;
  for (int i = 0; i < kStep; ++i) total += all[i];
  for (; k < D; ++k) {
    const double t = x[k] - s * (static_cast<double>(y[k]) - center[k]);
    total += t * t;
  }
  return total;
}

template <class T>
void listed(const DenoiseRows& rows, const DenoiseQueries& queries, const DenoiseLists& lists, const DenoiseOut& out,
            double* dropped, double* scratch) {
  const int64_t D = rows.D;
  double *const x = scratch, *const logits = scratch + D;
  for (int64_t n = 0; n < queries.N; ++n) {
    const double s = queries.scale[n], sigma = queries.sigma[n];
    const int64_t* const list = lists.rows + n * lists.capacity;
    for (int64_t k = 0; k < D; ++k) x[k] = std::fma(-s, rows.center[k], queries.x[n * D + k]);
    double top = -INFINITY, nearest = INFINITY;
    for (int64_t i = 0; i < lists.counts[n]; ++i) {
      const T* const y = static_cast<const T*>(rows.rows) + list[i] * D;
      const double root = 1 / sigma, energy = shifted_square(x, s, y, rows.center, D) * root * root / 2;
      logits[i] = rows.log_p[list[i]] - energy;
      top = logits[i] > top ? logits[i] : top;
      nearest = energy < nearest ? energy : nearest;
    }
    double* const mean = out.x0_hat + n * D;
    double total = 0, total_squares = 0;
    for (int64_t k = 0; k < D; ++k) mean[k] = 0;
    for (int64_t i = 0; i < lists.counts[n]; ++i) {
      const double w = std::exp(logits[i] - top);
      if (w == 0) continue;
      total += w;
      total_squares += w * w;
      const T* const y = static_cast<const T*>(rows.rows) + list[i] * D;
      for (int64_t k = 0; k < D; ++k) mean[k] += w * static_cast<double>(y[k]);
    }
    for (int64_t k = 0; k < D; ++k) mean[k] /= total;
    const double log_total = top + std::log(total);
    out.log_density[n] = log_total - static_cast<double>(D) * (std::log(sigma) + kLogRoot2Pi);
    out.effective[n] = total * total / total_squares;
    dropped[n] = lists.counts[n] == rows.M ? 0 : std::exp(-lists.tau - nearest - log_total);
  }
}

template <class T>
void search_operands(const DenoiseRows& rows, const DenoiseQueries& queries, const DenoiseSearch& out) {
  const int64_t D = rows.D;
  T* const query = static_cast<T*>(out.query);
  for (int64_t n = 0; n < queries.N; ++n) {
    const double s = queries.scale[n];
    double square = 0, rest = 0, length = 0;
    for (int64_t k = 0; k < D; ++k) {
      const double x = queries.x[n * D + k], centered = std::fma(-s, rows.center[k], x), q = s > 0 ? x / s : INFINITY;
      square += centered * centered;
      query[n * D + k] = static_cast<T>(q);
      const double lost = q - static_cast<double>(query[n * D + k]);
      rest += lost * lost;
      length += q * q;
    }
    out.squares[n] = square;
    // Upwards: the rounding of the quotients, and that of these sums themselves.
    out.rests[n] = (std::sqrt(rest) + std::sqrt(length) * 0x1p-53) * (1 + static_cast<double>(D + 16) * 0x1p-52);
  }
}

template <class T>
void row_squares(const DenoiseRows& rows, double* squares) {
  for (int64_t j = 0; j < rows.M; ++j) {
    double sums[8] = {};  // 8, so that a compiler may take them at once
    const T* const y = static_cast<const T*>(rows.rows) + j * rows.D;
    for (int64_t k = 0; k < rows.D; ++k) {
      const double t = static_cast<double>(y[k]) - rows.center[k];
      sums[k % 8] += t * t;
    }
    squares[j] = ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
  }
}

}  // namespace

void denoise_squares(const DenoiseRows& rows, double* squares) {
  rows.float64 ? row_squares<double>(rows, squares) : row_squares<float>(rows, squares);
}

void denoise_search(const DenoiseRows& rows, const DenoiseQueries& queries, const DenoiseSearch& out) {
  rows.float64 ? search_operands<double>(rows, queries, out) : search_operands<float>(rows, queries, out);
}

void denoise_listed(const DenoiseRows& rows, const DenoiseQueries& queries, const DenoiseLists& lists,
                    const DenoiseOut& out, double* dropped, double* scratch) {
  rows.float64 ? listed<double>(rows, queries, lists, out, dropped, scratch)
               : listed<float>(rows, queries, lists, out, dropped, scratch);
}

void denoise_dense(const DenoiseRows& rows, const DenoiseQueries& queries, const DenoiseOut& out, void* scratch) {
  rows.float64 ? dense<double>(rows, queries, out, scratch) : dense<float>(rows, queries, out, scratch);
}

void denoise_tokens(const DenoiseTokens& rows, const DenoiseQueries& queries, const DenoiseOut& out, double* scratch) {
  rows.width == 1 ? of_tokens<uint8_t>(rows, queries, out, scratch) : of_tokens<uint16_t>(rows, queries, out, scratch);
}

}  // namespace BIASGEN_ISA
}  // namespace biasgen
