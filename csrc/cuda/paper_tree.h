// Belief propagation of the paper's tree grammar (Q = 6, depth 4) in registers: four lanes a sample.
//
// Each lane holds a subtree of four leaves; the two levels above it are computed by all four lanes, which exchange
// messages by shuffle. Rules are known at compile time, so that messages are indexed by constants and stay in
// registers; weights are not.
#pragma once
#include "cuda/tree_numbers.h"

namespace biasgen {
namespace paper {

constexpr int kQ = 6;
constexpr int kLeaves = 16;
constexpr int kRules = 24;
constexpr int kLanes = 4;                       // lanes a sample
constexpr int kShuffleLevels = 2;               // log2(kLanes)
constexpr int kLaneLeaves = kLeaves / kLanes;   // leaves a lane
constexpr int kLaneEntries = kLaneLeaves * kQ;  // numbers that a lane reads and writes
constexpr int kInner = kLaneLeaves - 1;         // inner nodes of a lane's subtree, in heap order; its leaves follow
constexpr int kThreads = 128;
constexpr int kSamplesPerBlock = kThreads / kLanes;

struct Rule {
  int parent, left, right;
};

// TreeGrammar.random(q=6, depth=4, q_eff=4, seed=0).rules
__host__ __device__ constexpr Rule rule(int r) {
  constexpr Rule rules[kRules] = {
      {0, 5, 1}, {0, 3, 2}, {0, 2, 4}, {0, 5, 0}, {1, 1, 4}, {1, 0, 2}, {1, 1, 5}, {1, 4, 5},
      {2, 5, 3}, {2, 4, 4}, {2, 5, 2}, {2, 1, 2}, {3, 2, 5}, {3, 2, 2}, {3, 1, 1}, {3, 4, 2},
      {4, 4, 1}, {4, 4, 0}, {4, 1, 0}, {4, 3, 5}, {5, 3, 3}, {5, 3, 1}, {5, 1, 3}, {5, 5, 4},
  };
  return rules[r];
}

// m * 2^e with m in [1, 2), or 0 for a rule that the grammar lacks.
struct Weights {
  float m[kRules];
  int32_t e[kRules];
};

// Fills weights from a list of rules in any order; false where one with a weight above 0 is not the paper's.
inline bool find_weights(const int16_t* rules, const double* weights, int64_t R, Weights& out) {
  out = Weights{};
  for (int64_t i = 0; i < R; ++i) {
    if (weights[i] == 0) continue;
    int r = 0;
    while (r < kRules &&
           (rules[3 * i] != rule(r).parent || rules[3 * i + 1] != rule(r).left || rules[3 * i + 2] != rule(r).right))
      ++r;
    if (r == kRules) return false;
    const double fraction = std::frexp(weights[i], &out.e[r]);
    out.m[r] = static_cast<float>(2 * fraction);
    out.e[r] -= 1;
  }
  return true;
}

struct Message {
  float m[kQ];
  int32_t e[kQ];
};

// exp(field) as a message, divided by its largest entry.
__device__ __forceinline__ LeafSums leaf_message(const double (&field)[kQ], Message& out) {
  double top = -INFINITY, low = 0.0;
  bool sound = true;
  BIASGEN_UNROLL
  for (int a = 0; a < kQ; ++a) {
    top = field[a] > top ? field[a] : top;
    sound &= field[a] < INFINITY;
  }
  BIASGEN_UNROLL
  for (int a = 0; a < kQ; ++a) {
    const Entry entry = leaf_entry(field[a], top, low);
    out.m[a] = entry.m;
    out.e[a] = entry.e;
  }
  return leaf_sums(top, low, sound);
}

// One term a rule, x * 2^e, e = kNothing where x is 0.
struct Terms {
  float x[kRules];
  int32_t e[kRules];
};

// Sums the terms of all rules that share a symbol at `Place`; terms are aligned to the largest exponent of their sum.
template <int Rule::* Place>
__device__ __forceinline__ void sum_terms(const Terms& terms, Message& out) {
  float sum[kQ];
  int32_t e[kQ];
  BIASGEN_UNROLL
  for (int a = 0; a < kQ; ++a) {
    sum[a] = 0.0f;
    e[a] = kNothing;
  }
  BIASGEN_UNROLL
  for (int r = 0; r < kRules; ++r) e[rule(r).*Place] = max(e[rule(r).*Place], terms.e[r]);
  BIASGEN_UNROLL
  for (int r = 0; r < kRules; ++r)
    sum[rule(r).*Place] = fmaf(terms.x[r], power_of_two(minus(terms.e[r], e[rule(r).*Place])), sum[rule(r).*Place]);
  BIASGEN_UNROLL
  for (int a = 0; a < kQ; ++a) {
    const Entry entry = split(sum[a], e[a]);
    out.m[a] = entry.m;
    out.e[a] = entry.e;
  }
}

// From two children to their parent.
__device__ __forceinline__ void upward(const Weights& weights, const Message& left, const Message& right,
                                       Message& parent) {
  Terms terms;
  BIASGEN_UNROLL
  for (int r = 0; r < kRules; ++r) {
    const int a = rule(r).left, b = rule(r).right;
    terms.x[r] = left.m[a] * right.m[b] * weights.m[r];
    terms.e[r] = terms.x[r] > 0 ? plus(plus(left.e[a], right.e[b]), weights.e[r]) : kNothing;
  }
  sum_terms<&Rule::parent>(terms, parent);
}

// To one child, from the rest of the tree: `above` is the parent's outside message, `sibling` the other child's inside
// message.
template <int Rule::* Child, int Rule::* Sibling>
__device__ __forceinline__ void downward(const Weights& weights, const Message& above, const Message& sibling,
                                         Message& child) {
  Terms terms;
  BIASGEN_UNROLL
  for (int r = 0; r < kRules; ++r) {
    const int p = rule(r).parent, b = rule(r).*Sibling;
    terms.x[r] = above.m[p] * weights.m[r] * sibling.m[b];
    terms.e[r] = terms.x[r] > 0 ? plus(plus(above.e[p], sibling.e[b]), weights.e[r]) : kNothing;
  }
  sum_terms<Child>(terms, child);
}

// Marginals of two sibling leaves: one term a rule goes to both, so both sum to the same total.
__device__ __forceinline__ void leaf_pair(const Weights& weights, const Message& above, const Message& left,
                                          const Message& right, float* marginals) {
  constexpr int32_t kHeadroom = 32;  // so that an entry of 2^-126 of the total is still a normal number
  Terms terms;
  int32_t largest = kNothing;
  BIASGEN_UNROLL
  for (int r = 0; r < kRules; ++r) {
    const int p = rule(r).parent, a = rule(r).left, b = rule(r).right;
    terms.x[r] = above.m[p] * weights.m[r] * (left.m[a] * right.m[b]);
    terms.e[r] = terms.x[r] > 0 ? plus(plus(above.e[p], weights.e[r]), plus(left.e[a], right.e[b])) : kNothing;
    largest = max(largest, terms.e[r]);
  }
  BIASGEN_UNROLL
  for (int i = 0; i < 2 * kQ; ++i) marginals[i] = 0.0f;
  float total = 0.0f;
  BIASGEN_UNROLL
  for (int r = 0; r < kRules; ++r) {
    const float term = terms.x[r] * power_of_two(plus(minus(terms.e[r], largest), kHeadroom));
    marginals[rule(r).left] += term;
    marginals[kQ + rule(r).right] += term;
    total += term;
  }
  const float scale = total > 0 ? 1.0f / total : 0.0f;  // 0: impossible evidence
  BIASGEN_UNROLL
  for (int i = 0; i < 2 * kQ; ++i) {
    const float p = marginals[i] * scale;
    marginals[i] = p >= 0x1p-126f ? p : 0.0f;
  }
}

// Two children of a node above the lanes, as all lanes of both see them.
struct Pair {
  Message left, right;
};

__device__ __forceinline__ void exchange(const Message& own, int bit, bool is_right, Pair& pair) {
  BIASGEN_UNROLL
  for (int a = 0; a < kQ; ++a) {
    const float m = __shfl_xor_sync(~0u, own.m[a], bit);
    const int32_t e = __shfl_xor_sync(~0u, own.e[a], bit);
    pair.left.m[a] = is_right ? m : own.m[a];
    pair.left.e[a] = is_right ? e : own.e[a];
    pair.right.m[a] = is_right ? own.m[a] : m;
    pair.right.e[a] = is_right ? own.e[a] : e;
  }
}

__device__ __forceinline__ LeafSums exchange(const LeafSums& own, int bit, bool is_right) {
  const LeafSums other{__shfl_xor_sync(~0u, own.top, bit), __shfl_xor_sync(~0u, own.top_error, bit),
                       __shfl_xor_sync(~0u, own.spread, bit)};
  return is_right ? add(other, own) : add(own, other);
}

// What a sample's evidence says as a whole, the same on its four lanes.
struct Evidence {
  bool refused;     // NaN, +inf, or too large a spread
  bool impossible;  // the grammar forbids it
  double log_z;     // nats; -inf where impossible
};

// The whole tree. read(leaf, field): the field of one of this lane's leaves, in double. x0_hat: this lane's leaf
// marginals. Every lane of the warp must come along.
template <typename Read>
__device__ __forceinline__ Evidence posterior(const Weights& weights, int lane, Read read,
                                              float (&x0_hat)[kLaneEntries]) {
  Message inside[kInner + kLaneLeaves];
  LeafSums sums{};
  BIASGEN_UNROLL
  for (int i = 0; i < kLaneLeaves; ++i) {
    double field[kQ];
    read(i, field);
    sums = add(sums, leaf_message(field, inside[kInner + i]));
  }
  BIASGEN_UNROLL
  for (int i = kInner - 1; i >= 0; --i) upward(weights, inside[2 * i + 1], inside[2 * i + 2], inside[i]);
  Pair pairs[kShuffleLevels];
  Message top = inside[0];
  BIASGEN_UNROLL
  for (int d = 0; d < kShuffleLevels; ++d) {
    const bool is_right = lane >> d & 1;
    exchange(top, 1 << d, is_right, pairs[d]);
    sums = exchange(sums, 1 << d, is_right);
    upward(weights, pairs[d].left, pairs[d].right, top);
  }

  int32_t largest = kNothing;
  BIASGEN_UNROLL
  for (int a = 0; a < kQ; ++a) largest = max(largest, top.m[a] > 0 ? top.e[a] : kNothing);
  float z = 0.0f;
  BIASGEN_UNROLL
  for (int a = 0; a < kQ; ++a) z = fmaf(top.m[a], power_of_two(minus(top.e[a], top.m[a] > 0 ? largest : 0)), z);
  const Evidence evidence{!(sums.spread < kMaxSpread), !(z > 0),
                          z > 0 ? logf(z / kQ) + kLn2 * largest + sums.top_error + sums.top : -INFINITY};

  Message outside[kInner];
  BIASGEN_UNROLL
  for (int a = 0; a < kQ; ++a) {
    outside[0].m[a] = 1.0f;
    outside[0].e[a] = 0;
  }
  BIASGEN_UNROLL
  for (int d = kShuffleLevels - 1; d >= 0; --d) {
    const bool is_right = lane >> d & 1;
    Message to_left, to_right;
    downward<&Rule::left, &Rule::right>(weights, outside[0], pairs[d].right, to_left);
    downward<&Rule::right, &Rule::left>(weights, outside[0], pairs[d].left, to_right);
    BIASGEN_UNROLL
    for (int a = 0; a < kQ; ++a) {
      outside[0].m[a] = is_right ? to_right.m[a] : to_left.m[a];
      outside[0].e[a] = is_right ? to_right.e[a] : to_left.e[a];
    }
  }
  BIASGEN_UNROLL
  for (int i = 0; i < kInner; ++i) {
    const Message &left = inside[2 * i + 1], &right = inside[2 * i + 2];
    if (2 * i + 1 < kInner) {
      downward<&Rule::left, &Rule::right>(weights, outside[i], right, outside[2 * i + 1]);
      downward<&Rule::right, &Rule::left>(weights, outside[i], left, outside[2 * i + 2]);
    } else {
      leaf_pair(weights, outside[i], left, right, x0_hat + (2 * i + 1 - kInner) * kQ);
    }
  }
  return evidence;
}

}  // namespace paper
}  // namespace biasgen
