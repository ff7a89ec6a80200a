// Exact posterior of a complete binary tree on the CPU: what crosses between the binding and the kernels of each
// instruction set.
#pragma once
#include <cstdint>

namespace biasgen {

// One rule as seen from one of its three symbols: the other two, and the weight as mantissa (1 <= m < 2) and exponent.
struct TreeRule {
  int32_t first, second;
  float mantissa;
  int32_t exponent;
};

// Rules grouped by one symbol: those of symbol s are rules[begin[s]] .. rules[begin[s + 1] - 1].
struct TreeRuleGroups {
  const TreeRule* rules;
  const int64_t* begin;  // (Q + 1,)
};

struct TreeBatch {
  int64_t B, L, Q;        // L = 2, 4, ... 1024 leaves
  const void* log_field;  // (B, L, Q) float, or double where double_field
  bool double_field;
  TreeRuleGroups by_parent;  // first, second = left, right
  TreeRuleGroups by_left;    // first, second = parent, right
  TreeRuleGroups by_right;   // first, second = parent, left
  float* marginals;          // (B, L, Q)
  double* log_z;             // (B,)
  bool* impossible;          // (B,)
  void* scratch;             // tree_posterior_scratch bytes, 64-byte aligned
};

// Exponents are int32: the fields of a sample may spread over this many bits, summed over its leaves, and no more.
constexpr double kMaxSpread = 1 << 30;

// Leaves that are transposed together.
constexpr int64_t kLeafGroup = 4;

// A message for each of the 2 L - 1 nodes, numbered from 1, and two more; the columns of one group of leaves. For the
// widest vectors.
static inline int64_t tree_posterior_scratch(int64_t L, int64_t Q) {
  return (2 * L + 2) * Q * 128 + kLeafGroup * Q * 128;
}

// Fills marginals, log_z and impossible. Returns -1, or the first sample that is refused (NaN, +inf, too large a
// spread); what was written is then void.
#define BIASGEN_TREE_POSTERIOR(ISA)               \
  inline namespace ISA {                          \
  int64_t tree_posterior(const TreeBatch& batch); \
  }

BIASGEN_TREE_POSTERIOR(baseline)
#ifdef BIASGEN_X86
BIASGEN_TREE_POSTERIOR(avx2)
BIASGEN_TREE_POSTERIOR(avx512)
#endif

}  // namespace biasgen
