// The empirical denoiser on the CPU: what crosses between the bindings and the kernels of each instruction set.
#pragma once
#include <cstdint>

namespace biasgen {

// M rows that x_0 may be, and their prior probabilities.
struct DenoiseRows {
  bool float64;
  const void* rows;  // (M, D) float64 or float32
  int64_t M, D;
  const double* center;   // (D,), each number between the least and the largest of its column
  const double* squares;  // (M,) |row - center|^2
  const double* log_p;    // (M,) finite
};

// M rows of L tokens below Q that x_0 may be, one-hot, and their prior probabilities.
struct DenoiseTokens {
  int width;           // bytes of a token, 1 or 2
  const void* tokens;  // (M, L)
  int64_t M, L, Q;
  const double* log_p;  // (M,) finite
};

// N points x = scale row + sigma noise.
struct DenoiseQueries {
  int64_t N;
  const double* x;      // (N, D)
  const double* scale;  // (N,) >= 0
  const double* sigma;  // (N,) > 0
};

// Candidates of each query, in rows[n * capacity ..]; what is left out has less than exp(-tau) of the nearest's density
// and all of it together at most probability 1.
struct DenoiseLists {
  int64_t capacity;
  const int64_t* rows;    // (N, capacity)
  const int64_t* counts;  // (N,) 1 .. capacity
  double tau;
};

struct DenoiseOut {
  double* x0_hat;       // (N, D)
  double* log_density;  // (N,)
  double* effective;    // (N,) 1 / sum of the squared weights
};

// What the search of a query works with: x / scale as the type of the rows, how far that may be from x / scale, and
// |x - scale center|^2. Not finite where the type cannot hold it.
struct DenoiseSearch {
  void* query;      // (N, D)
  double* rests;    // (N,)
  double* squares;  // (N,)
};

constexpr double kLogRoot2Pi = 0.91893853320467274178;
constexpr int64_t kDenoisePanel = 96;   // rows whose weights are summed in single precision: 96 * 2^-24 < 6e-6
constexpr int64_t kDenoiseDepth = 512;  // features whose products are summed in one go

// Scratch of the kernels for N queries, whole groups of 8, at any instruction set.
static inline int64_t dense_scratch_bytes(int64_t N, int64_t D) {
  const int64_t queries = (N + 7) / 8 * 8, features = (D + 47) / 48 * 48;
  const int64_t of_query = 8 * (D + features + kDenoisePanel + 8) + 4 * kDenoisePanel;
  return queries * of_query + kDenoisePanel * (8 * kDenoiseDepth + 4 * 48 + 16);
}

constexpr int kMostTokenQueries = 16;  // that one load serves, at any instruction set
constexpr int64_t kTokenPanel = 32;    // rows whose logits are known before their weights: in the first cache

static inline int64_t tokens_scratch_bytes(int64_t L, int64_t Q) {
  return 8 * kMostTokenQueries * (2 * L * Q + kTokenPanel);
}

#define BIASGEN_DENOISE_KERNELS(ISA)                                                                                \
  inline namespace ISA {                                                                                            \
  void denoise_squares(const DenoiseRows& rows, double* squares);                                                   \
  void denoise_search(const DenoiseRows& rows, const DenoiseQueries& queries, const DenoiseSearch& out);            \
  void denoise_listed(const DenoiseRows& rows, const DenoiseQueries& queries, const DenoiseLists& lists,            \
                      const DenoiseOut& out, double* dropped, double* scratch);                                     \
  void denoise_dense(const DenoiseRows& rows, const DenoiseQueries& queries, const DenoiseOut& out, void* scratch); \
  void denoise_tokens(const DenoiseTokens& rows, const DenoiseQueries& queries, const DenoiseOut& out,              \
                      double* scratch);                                                                             \
  }

#ifdef BIASGEN_ISA
BIASGEN_DENOISE_KERNELS(BIASGEN_ISA)
#else
BIASGEN_DENOISE_KERNELS(baseline)
#ifdef BIASGEN_X86
BIASGEN_DENOISE_KERNELS(avx2)
BIASGEN_DENOISE_KERNELS(avx512)
#endif
#endif

}  // namespace biasgen
