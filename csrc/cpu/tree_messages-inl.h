// Messages on a tree, one sample a lane: what the kernels of trees share.
//
// Every entry of a message is a pair (float mantissa, int32 exponent), so that no field is too large and no entry is
// lost; a sum is taken relative to its largest term.
#pragma once
#include <cstdint>

#include "cpu/simd-inl.h"
#include "cpu/tree_posterior.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

constexpr int kSamples = kLanes<float>;

typedef float Float __attribute__((vector_size(kVectorBytes)));
typedef int32_t Int __attribute__((vector_size(kVectorBytes)));
typedef uint32_t Unsigned __attribute__((vector_size(kVectorBytes)));

// mantissa * 2^exponent. Zero is mantissa 0; its exponent is stored as 0 and takes part in no maximum.
struct Entry {
  Float mantissa;
  Int exponent;
};

// The levels that have nodes, the root first: level d has S^d nodes, which begin at start[d]; the leaves are level
// depth.
template <int S>
struct Tree {
  int64_t Q, L, depth, factorized;
  const int64_t* start;
  explicit Tree(const TreeBatch& batch)
      : Q(batch.Q), L(batch.L), depth(batch.depth), factorized(batch.factorized), start(batch.start) {}
  int64_t nodes() const { return start[depth + 1]; }
  int64_t hung() const { return factorized == 0 ? 0 : start[factorized + 1] - 1; }
  int64_t group() const { return L < kLeafGroup ? L : (S == 3 ? 3 : kLeafGroup); }  // leaves transposed together
};

// What weighs one choice; its mantissa is then a running sum.
struct Weight {
  double mantissa;
  int64_t exponent;
};

// Where a tile's messages and all else that it needs lie.
template <int S>
struct Space {
  Entry *messages, *spare, *told, *products;  // of all nodes; two families and the prior; see upward_hung
  void* columns;
  float* stage;
  Weight* weights;
  int16_t* nodes;
  Space(const TreeBatch& batch, const Tree<S>& tree) {
    messages = static_cast<Entry*>(batch.scratch);
    spare = messages + tree.nodes() * tree.Q;
    told = spare + (2 * S + 1) * tree.Q;
    products = told + tree.hung() * tree.Q;
    columns = products + tree.hung() * tree.Q;
    nodes = static_cast<int16_t*>(batch.scratch) + batch.scratch_bytes / 2 - 2 * tree.L;
    weights = reinterpret_cast<Weight*>(nodes) - batch.choices;
    stage = reinterpret_cast<float*>(weights) - kStage / sizeof(float);
  }
};

// Stands for the exponent of a zero in a maximum: below every true exponent (kMaxSpread, and 1074 bits for each weight
// on the way), and still far enough from the end of int32 to be subtracted.
constexpr int32_t kNothing = -(3 << 29);

// m * 2^d where both are normal numbers; anything (unsigned, so that it may) elsewhere.
inline Float add_exponent(Float m, Int d) { return (Float)((Unsigned)m + ((Unsigned)d << 23)); }

// m * 2^d for m = 0 or 1 <= m < 2^30 (2^25 terms of at most 2^5) and d <= 0; 0 where d is below -126.
inline Float scale(Float m, Int d) { return d >= -126 ? add_exponent(m, d) : Float{}; }

inline Int larger(Int a, Int b) { return a > b ? a : b; }

// Splits sum * 2^exponent, sum = 0 or >= 1. The exponent of a zero is 0.
inline Entry split(Float sum, Int exponent) {
  const Int bits = (Int)sum;
  const Float mantissa = (Float)((bits & 0x7FFFFF) | 0x3F800000);
  const auto live = sum > 0.0f;
  return {live ? mantissa : Float{}, live ? exponent + (bits >> 23) - 127 : Int{}};
}

// Adds N terms, the product of the others' entries and the weight, to sum * 2^largest; or, the first, begins with them.
template <int N, bool first, int S>
inline __attribute__((always_inline)) void add_terms(const TreeRule<S>* rule, const Entry* const* others, Float& sum,
                                                     Int& largest) {
  Float mantissa[N];
  Int exponent[N];
  const Int before = largest;
  for (int k = 0; k < N; ++k) {
    const Entry& one = others[0][rule[k].others[0]];
    mantissa[k] = one.mantissa;
    exponent[k] = one.exponent;
    for (int c = 1; c < S; ++c) {
      const Entry& next = others[c][rule[k].others[c]];
      mantissa[k] *= next.mantissa;
      exponent[k] += next.exponent;
    }
    mantissa[k] *= rule[k].mantissa;
    exponent[k] = mantissa[k] > 0.0f ? exponent[k] + rule[k].exponent : Int{} + kNothing;
    largest = first && k == 0 ? exponent[k] : larger(largest, exponent[k]);
  }
  sum = first ? Float{} : scale(sum, before - largest);
  for (int k = 0; k < N; ++k) sum += scale(mantissa[k], exponent[k] - largest);
}

template <bool first, int S>
inline __attribute__((always_inline)) void add_up_to_3(const TreeRule<S>* rule, int64_t n, const Entry* const* others,
                                                       Float& sum, Int& largest) {
  if (n == 3) add_terms<3, first>(rule, others, sum, largest);
  if (n == 2) add_terms<2, first>(rule, others, sum, largest);
  if (n == 1) add_terms<1, first>(rule, others, sum, largest);
}

// The sum over the rules from `rule` to `end`, as sum * 2^largest.
template <int S>
inline __attribute__((always_inline)) void add_rules(const TreeRule<S>* rule, const TreeRule<S>* end,
                                                     const Entry* const* others, Float& sum, Int& largest) {
  sum = Float{};
  largest = Int{} + kNothing;
  if (end - rule < 4) return add_up_to_3<true>(rule, end - rule, others, sum, largest);
  add_terms<4, true>(rule, others, sum, largest);
  for (rule += 4; end - rule >= 4; rule += 4) add_terms<4, false>(rule, others, sum, largest);
  add_up_to_3<false>(rule, end - rule, others, sum, largest);
}

// Rules that are summed one after the other: a sum of more is one of such runs, so that rounding stays small.
constexpr int64_t kRun = 64;

// The sum over one symbol's rules, of any number. Apart from combine, which would be slower for having it inside.
template <int S>
__attribute__((noinline)) Entry add_runs(const TreeRule<S>* rule, const TreeRule<S>* end, const Entry* const* others) {
  Float sum{};
  Int largest = Int{} + kNothing;
  for (; rule < end; rule += kRun) {
    Float part;
    Int part_largest;
    add_rules(rule, end - rule < kRun ? end : rule + kRun, others, part, part_largest);
    const Int both = larger(largest, part_largest);
    sum = scale(sum, largest - both) + scale(part, part_largest - both);
    largest = both;
  }
  return split(sum, largest);
}

// message[s] = sum over the rules of symbol s of the S others' entries and the weight. Messages are not normalized: an
// exponent is at least minus the spread of the leaves below (kMaxSpread for all) and 1074 for each weight, and at most
// 30 for each node. `message` may not overlap the others.
template <int S>
void combine(const TreeRuleGroups& groups, int64_t Q, const Entry* const* others, Entry* message) {
  const auto* rules = static_cast<const TreeRule<S>*>(groups.rules);
  if (groups.longest > kRun) {
    for (int64_t s = 0; s < Q; ++s) message[s] = add_runs(rules + groups.begin[s], rules + groups.begin[s + 1], others);
    return;
  }
  const Entry* mine[S];  // whose address nobody has, so that it stays in registers while messages are written
  for (int c = 0; c < S; ++c) mine[c] = others[c];
  for (int64_t s = 0; s < Q; ++s) {
    Float sum;
    Int largest;
    add_rules(rules + groups.begin[s], rules + groups.begin[s + 1], mine, sum, largest);
    message[s] = split(sum, largest);
  }
}

// to[s] = a[s] * b[s]. `to` may be a or b.
inline void multiply(const Entry* a, const Entry* b, int64_t Q, Entry* to) {
  for (int64_t s = 0; s < Q; ++s) to[s] = split(a[s].mantissa * b[s].mantissa, a[s].exponent + b[s].exponent);
}

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
