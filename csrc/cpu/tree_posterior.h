// Exact posterior of a complete tree on the CPU: what crosses between the binding and the kernels of each
// instruction set.
#pragma once
#include <cstdint>

namespace biasgen {

// One rule as seen from one of its S + 1 symbols: the others, in their order, and the weight as mantissa (1 <= m < 2)
// and exponent.
template <int S>
struct TreeRule {
  int32_t others[S];
  float mantissa;
  int32_t exponent;
};

// Rules grouped by one symbol: those of symbol s are rules[begin[s]] .. rules[begin[s + 1] - 1], each a TreeRule<S>.
struct TreeRuleGroups {
  const void* rules;
  const int64_t* begin;  // (Q + 1,)
};

// An entry of the root's prior relative to its largest; zero is mantissa 0.
struct TreePrior {
  float mantissa;
  int32_t exponent;
};

struct TreeBatch {
  int64_t B, L, Q, arity;  // arity 2, 3 or 4; L = arity, arity^2, ... <= 4096 leaves
  const void* log_field;   // (B, L, Q) float, or double where double_field
  bool double_field;
  const TreeRuleGroups* rules;  // (depth, arity + 1): level by level from the root, by parent and by each child
  const TreePrior* root;        // (Q,)
  double log_root;              // logarithm of the prior's largest entry
  bool all_levels;              // marginals of every node, level by level, and not of the leaves alone
  float* marginals;             // (B, L, Q), or (B, nodes, Q)
  double* log_z;                // (B,)
  bool* impossible;             // (B,)
  void* scratch;                // tree_posterior_scratch bytes, 64-byte aligned
};

// Exponents are int32: the fields of a sample may spread over this many bits, summed over its leaves, and no more.
constexpr double kMaxSpread = 1 << 30;

// Leaves that are transposed together (3 where three make a family), and levels below the root, at most.
constexpr int64_t kLeafGroup = 4, kMaxDepth = 12;

// A message for each of the (S L - 1) / (S - 1) nodes and for two families of children; the columns of one group of
// leaves. For the widest vectors.
static inline int64_t tree_posterior_scratch(int64_t L, int64_t Q, int64_t arity) {
  return ((arity * L - 1) / (arity - 1) + 2 * arity + kLeafGroup) * Q * 128;
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
