// Exact posterior of a complete binary tree on a GPU: one launch a batch.
#pragma once
#include <cstdint>

namespace biasgen {

// Strings to draw from the posterior in place of its marginals; row b, string k draws the numbers of sample b, step k
// (core/philox.h).
struct TreeDraws {
  int64_t count;  // strings a row
  uint64_t seed;
  int8_t* strings;  // (B, count, L), -1 where the evidence is impossible or refused; null: marginals are wanted
};

// Everything is on the device but rules and weights, which may be freed when the launch has returned.
struct TreePosteriorCall {
  int64_t B, L, Q, R;  // L = 2, 4, ... 1024 leaves, Q = 1 .. 64 symbols, R rules
  int64_t double_field;
  const void* log_field;      // (B, L, Q) float, or double where double_field; 16-byte aligned
  const int16_t* rules;       // host, (R, 3) parent, left, right
  const double* weights;      // host, (R,), 0 .. 1
  const int32_t* rule_lists;  // the same for a kernel: tree_rules.h
  void* scratch;              // tree_posterior_scratch bytes, 16-byte aligned
  float* marginals;           // (B, L, Q), 16-byte aligned; not written where strings are drawn
  double* log_z;              // (B,) nats
  uint8_t* impossible;        // (B,)
  uint64_t* refused;          // one number, which becomes the first refused sample if that is smaller
  TreeDraws draws;
  void* stream;  // cudaStream_t
};

// Launches and returns null, or a sentence that says why nothing was launched. Evidence that the grammar forbids: log_z
// is -inf, the marginals are zero, impossible is 1. A refused sample (NaN, +inf, fields that spread over 2^30 bits or
// more, summed over the leaves): log_z and the marginals are NaN.
extern "C" __attribute__((visibility("default"))) const char* launch_tree_posterior(const TreePosteriorCall* call);

// Bytes of scratch, 0 where messages stay on the chip.
extern "C" __attribute__((visibility("default"))) int64_t tree_posterior_scratch(const TreePosteriorCall* call);

}  // namespace biasgen
