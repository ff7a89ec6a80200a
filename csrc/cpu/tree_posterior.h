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
  const int64_t* begin;       // (Q + 1,)
  const int64_t* number;      // of each rule in its level
  int64_t count;              // numbers of the level; those that are not listed have weight 0
  int64_t longest;            // rules of one symbol, at most
  const double* log_weights;  // by number; for the most probable derivations alone
};

// An entry of the root's prior relative to its largest; zero is mantissa 0.
struct TreePrior {
  float mantissa;
  int32_t exponent;
};

enum class TreeEvidence {
  float32,
  float64,
  int8,
  int16
};  // fields (B, L, Q), or tokens (B, L), -1 where none was seen
enum class TreeOutput { none, leaves, all, rules };  // marginals, each with the ones before it

// Strings from the posteriors, in place of marginals where n >= 0; or the most probable derivations (batch.log_prior),
// one for each sample.
struct TreeStrings {
  int64_t n = -1;  // of each sample
  uint64_t seed;
  int64_t first;  // number of the batch's first sample
  bool wide;      // tokens are int16
  void* tokens;   // (B, n, L)
};

struct TreeBatch {
  int64_t B, L, Q, arity, depth;  // arity 2, 3 or 4; L = arity^depth <= 4096 leaves
  const void* evidence;
  TreeEvidence type;
  const TreeRuleGroups* rules;     // (depth, arity + 1): level by level from the root, by parent and by each child
  int64_t factorized;              // k of BP_k: the nodes of level k > 0 hang on the root, without the levels between
  const int64_t* start;            // (depth + 2,): where the nodes of each level begin, and how many there are
  const TreeRuleGroups* channels;  // (arity^k, 2), TreeRule<1>: of each of these nodes by the root and by its symbol
  const TreePrior* root;           // (Q,)
  double log_root;                 // logarithm of the prior's largest entry
  TreeOutput output;
  float* marginals;       // (B, marginals_row): leaves, or all nodes, level by level
  float* rule_marginals;  // (B, rules_row): node by node
  int64_t marginals_row, rules_row;
  bool stream;                // marginals go to memory past the caches, which could not hold them
  const int64_t* rule_start;  // (depth,): where the numbers of a level's nodes begin in a row of rule_marginals
  double* log_z;              // (B,)
  bool* impossible;           // (B,)
  TreeStrings strings;
  const double* log_prior;  // (Q,), where the most probable derivations are wanted; log_z then takes their logarithms
  int64_t choices;          // of a string's root, node or symbol, at most
  void* scratch;            // 64-byte aligned
  int64_t scratch_bytes;    // tree_posterior_scratch
};

// Exponents are int32: the fields of a sample may spread over this many bits, summed over its leaves, and no more.
constexpr double kMaxSpread = 1 << 30;

// Bytes of a tile's marginals, at most, that are gathered before they are streamed.
constexpr int64_t kStage = 16384;

// Leaves that are transposed together, at most (3 where three make a family).
constexpr int64_t kLeafGroup = 4;

// The messages of `nodes` nodes, of two families of children and the prior, of what `hung` nodes on the root tell it
// twice; columns of one group of leaves, or of `rules` rules; a stage; what draws a string: its choices, its symbols
// twice. For the widest vectors.
static inline int64_t tree_posterior_scratch(int64_t L, int64_t Q, int64_t arity, int64_t nodes, int64_t hung,
                                             int64_t rules, int64_t choices) {
  const int64_t columns = kLeafGroup * Q > rules ? kLeafGroup * Q : rules;
  return ((nodes + 2 * arity + 1 + 2 * hung) * Q + columns) * 128 + kStage + choices * 16 + 4 * L;
}

// Fills what batch.output or batch.strings ask for. Returns -1, or the first sample that is refused (NaN, +inf, too
// large a spread); what was written is then void.
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
