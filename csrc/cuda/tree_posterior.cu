// Leaf posterior of the paper's tree grammar (Q = 6, depth 4) by belief propagation: the whole tree in one kernel, four
// lanes a sample.
//
// Each lane holds a subtree of four leaves in registers; the two levels above it are computed by all four lanes, which
// exchange messages by shuffle. Every message entry is mantissa * 2^exponent with an int32 exponent, so no evidence is
// too strong: float exponents are silently wrong on deep trees. Each message is normalized to a largest exponent of 0;
// what was taken out is summed in int64. A zero entry is mantissa 0: its exponent takes part in nothing.
#include <cmath>
#include <cstdint>

#include "core/launch.h"
#include "cuda/tree_posterior.h"

namespace biasgen {
namespace {

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
constexpr int32_t kNoTerm = INT32_MIN;  // exponent of a sum without terms; never added to anything
constexpr float kSmallestWeight = 0x1p-100f;

struct Rule {
  int parent, left, right;
};

// TreeGrammar.random(q=6, depth=4, q_eff=4, seed=0).rules. At compile time, so that messages are indexed by constants
// and stay in registers; the weights are not.
__host__ __device__ constexpr Rule rule(int r) {
  constexpr Rule rules[kRules] = {
      {0, 5, 1}, {0, 3, 2}, {0, 2, 4}, {0, 5, 0}, {1, 1, 4}, {1, 0, 2}, {1, 1, 5}, {1, 4, 5},
      {2, 5, 3}, {2, 4, 4}, {2, 5, 2}, {2, 1, 2}, {3, 2, 5}, {3, 2, 2}, {3, 1, 1}, {3, 4, 2},
      {4, 4, 1}, {4, 4, 0}, {4, 1, 0}, {4, 3, 5}, {5, 3, 3}, {5, 3, 1}, {5, 1, 3}, {5, 5, 4},
  };
  return rules[r];
}

struct Weights {
  float of[kRules];
};

// Entries m * 2^e: m in [1, 2) or 0, e <= 0 and 0 for the largest. e is 0 where m is 0.
struct Message {
  float m[kQ];
  int32_t e[kQ];
};

// 2^k for k <= 0; 0 below 2^-126. Integer instructions: they have four times the rate of ex2.
__device__ __forceinline__ float power_of_two(int32_t k) { return __int_as_float((k > -127 ? k + 127 : 0) << 23); }

// Brings entries value * 2^e (value 0 or a positive normal number) into a Message; returns the exponent that was taken
// out.
__device__ __forceinline__ int32_t normalize(const float (&value)[kQ], const int32_t (&e)[kQ], Message& out) {
  int32_t largest = kNoTerm;
  BIASGEN_UNROLL
  for (int a = 0; a < kQ; ++a) {
    const int32_t bits = __float_as_int(value[a]);
    out.m[a] = value[a] > 0 ? __int_as_float((bits & 0x7fffff) | 0x3f800000) : 0.0f;
    out.e[a] = value[a] > 0 ? e[a] + (bits >> 23) - 127 : kNoTerm;
    largest = out.e[a] > largest ? out.e[a] : largest;
  }
  BIASGEN_UNROLL
  for (int a = 0; a < kQ; ++a) out.e[a] = out.m[a] > 0 ? out.e[a] - largest : 0;
  return largest == kNoTerm ? 0 : largest;
}

// exp(field) as a message. n + r = field * log2(e) with both products fused: r is right to 2^-24 for |field| <= 1e4.
__device__ __forceinline__ int32_t leaf_message(const float* field, Message& out) {
  constexpr float kLog2e = 0x1.715476p+0f, kLog2eRest = 0x1.4ae0cp-26f;
  float value[kQ];
  int32_t e[kQ];
  BIASGEN_UNROLL
  for (int a = 0; a < kQ; ++a) {
    const bool excluded = field[a] == -INFINITY;
    const float f = excluded ? 0.0f : field[a];
    const float n = rintf(f * kLog2e);
    value[a] = excluded ? 0.0f : exp2_approx(fmaf(f, kLog2eRest, fmaf(f, kLog2e, -n)));
    e[a] = static_cast<int32_t>(n);
  }
  return normalize(value, e, out);
}

// One term a rule, x * 2^e, e = kNoTerm where x is 0.
struct Terms {
  float x[kRules];
  int32_t e[kRules];
};

// Sums the terms of all rules that share a symbol at `Place`; terms are aligned to the largest exponent of their sum.
template <int Rule::* Place>
__device__ __forceinline__ int32_t sum_terms(const Terms& terms, Message& out) {
  float sum[kQ];
  int32_t e[kQ];
  BIASGEN_UNROLL
  for (int a = 0; a < kQ; ++a) {
    sum[a] = 0.0f;
    e[a] = kNoTerm;
  }
  BIASGEN_UNROLL
  for (int r = 0; r < kRules; ++r) e[rule(r).*Place] = max(e[rule(r).*Place], terms.e[r]);
  BIASGEN_UNROLL
  for (int r = 0; r < kRules; ++r)
    sum[rule(r).*Place] = fmaf(terms.x[r], power_of_two(terms.e[r] - e[rule(r).*Place]), sum[rule(r).*Place]);
  return normalize(sum, e, out);
}

// From two children to their parent; returns the exponent taken out.
__device__ __forceinline__ int32_t upward(const Weights& weights, const Message& left, const Message& right,
                                          Message& parent) {
  Terms terms;
  BIASGEN_UNROLL
  for (int r = 0; r < kRules; ++r) {
    const int a = rule(r).left, b = rule(r).right;
    terms.x[r] = left.m[a] * right.m[b] * weights.of[r];
    terms.e[r] = terms.x[r] > 0 ? left.e[a] + right.e[b] : kNoTerm;
  }
  return sum_terms<&Rule::parent>(terms, parent);
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
    terms.x[r] = above.m[p] * weights.of[r] * sibling.m[b];
    terms.e[r] = terms.x[r] > 0 ? above.e[p] + sibling.e[b] : kNoTerm;
  }
  sum_terms<Child>(terms, child);
}

// Marginals of two sibling leaves: one term a rule goes to both, so both sum to the same total.
__device__ __forceinline__ void leaf_pair(const Weights& weights, const Message& above, const Message& left,
                                          const Message& right, float* marginals) {
  Terms terms;
  int32_t largest = kNoTerm;
  BIASGEN_UNROLL
  for (int r = 0; r < kRules; ++r) {
    const int p = rule(r).parent, a = rule(r).left, b = rule(r).right;
    terms.x[r] = above.m[p] * weights.of[r] * (left.m[a] * right.m[b]);
    terms.e[r] = terms.x[r] > 0 ? above.e[p] + left.e[a] + right.e[b] : kNoTerm;
    largest = max(largest, terms.e[r]);
  }
  BIASGEN_UNROLL
  for (int i = 0; i < 2 * kQ; ++i) marginals[i] = 0.0f;
  float total = 0.0f;
  BIASGEN_UNROLL
  for (int r = 0; r < kRules; ++r) {
    const float term = terms.x[r] * power_of_two(terms.e[r] - largest);
    marginals[rule(r).left] += term;
    marginals[kQ + rule(r).right] += term;
    total += term;
  }
  const float scale = total > 0 ? 1.0f / total : 0.0f;  // 0: impossible evidence
  BIASGEN_UNROLL
  for (int i = 0; i < 2 * kQ; ++i) marginals[i] *= scale;
}

__global__ void __launch_bounds__(kThreads)
    tree_posterior_kernel(const float* __restrict__ log_field, const __grid_constant__ Weights weights, int64_t B,
                          float* __restrict__ marginals, double* __restrict__ log_z, uint8_t* __restrict__ impossible) {
  const int lane = threadIdx.x % kLanes;
  const int64_t wanted = static_cast<int64_t>(blockIdx.x) * kSamplesPerBlock + threadIdx.x / kLanes;
  const int64_t sample =
      wanted < B ? wanted : B - 1;  // lanes past the end repeat the last sample: shuffles need the whole warp
  const int64_t first = sample * (kLeaves * kQ) + lane * kLaneEntries;

  float x[kLaneEntries];  // the field, later the marginals
  BIASGEN_UNROLL
  for (int i = 0; i < kLaneEntries / 4; ++i) {
    const float4 v = __ldcs(reinterpret_cast<const float4*>(log_field + first) + i);
    x[4 * i] = v.x, x[4 * i + 1] = v.y, x[4 * i + 2] = v.z, x[4 * i + 3] = v.w;
  }

  Message inside[kInner + kLaneLeaves];
  int64_t exponent = 0;
  BIASGEN_UNROLL
  for (int i = 0; i < kLaneLeaves; ++i) exponent += leaf_message(x + i * kQ, inside[kInner + i]);
  BIASGEN_UNROLL
  for (int i = kInner - 1; i >= 0; --i) exponent += upward(weights, inside[2 * i + 1], inside[2 * i + 2], inside[i]);

  Message left[kShuffleLevels], right[kShuffleLevels], top = inside[0];
  BIASGEN_UNROLL
  for (int d = 0; d < kShuffleLevels; ++d) {
    const bool is_right = lane >> d & 1;
    BIASGEN_UNROLL
    for (int a = 0; a < kQ; ++a) {
      const float m = __shfl_xor_sync(~0u, top.m[a], 1 << d);
      const int32_t e = __shfl_xor_sync(~0u, top.e[a], 1 << d);
      left[d].m[a] = is_right ? m : top.m[a];
      left[d].e[a] = is_right ? e : top.e[a];
      right[d].m[a] = is_right ? top.m[a] : m;
      right[d].e[a] = is_right ? top.e[a] : e;
    }
    exponent += __shfl_xor_sync(~0u, exponent, 1 << d);
    exponent += upward(weights, left[d], right[d], top);
  }

  float z = 0.0f;
  BIASGEN_UNROLL
  for (int a = 0; a < kQ; ++a) z = fmaf(top.m[a], power_of_two(top.e[a]), z);
  if (wanted < B && lane == 0) {
    constexpr double kLn2 = 0.693147180559945309;
    log_z[sample] = z > 0 ? logf(z / kQ) + kLn2 * static_cast<double>(exponent) : -INFINITY;  // the root is uniform
    impossible[sample] = !(z > 0);
  }

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
    downward<&Rule::left, &Rule::right>(weights, outside[0], right[d], to_left);
    downward<&Rule::right, &Rule::left>(weights, outside[0], left[d], to_right);
    BIASGEN_UNROLL
    for (int a = 0; a < kQ; ++a) {
      outside[0].m[a] = is_right ? to_right.m[a] : to_left.m[a];
      outside[0].e[a] = is_right ? to_right.e[a] : to_left.e[a];
    }
  }
  BIASGEN_UNROLL
  for (int i = 0; i < kInner; ++i) {
    const Message &left_child = inside[2 * i + 1], &right_child = inside[2 * i + 2];
    if (2 * i + 1 < kInner) {
      downward<&Rule::left, &Rule::right>(weights, outside[i], right_child, outside[2 * i + 1]);
      downward<&Rule::right, &Rule::left>(weights, outside[i], left_child, outside[2 * i + 2]);
    } else {
      leaf_pair(weights, outside[i], left_child, right_child, x + (2 * i + 1 - kInner) * kQ);
    }
  }

  if (wanted < B) {
    BIASGEN_UNROLL
    for (int i = 0; i < kLaneEntries / 4; ++i)
      __stcs(reinterpret_cast<float4*>(marginals + first) + i,
             make_float4(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]));
  }
}

bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

extern "C" const char* launch_tree_posterior(const float* log_field, const int16_t* rules, const double* weights,
                                             int64_t B, float* marginals, double* log_z, uint8_t* impossible,
                                             void* stream) {
  Weights narrow;
  for (int r = 0; r < kRules; ++r) {
    if (rules[3 * r] != rule(r).parent || rules[3 * r + 1] != rule(r).left || rules[3 * r + 2] != rule(r).right)
      return "rules: not the list that this kernel is compiled for (TreeGrammar.random(q=6, depth=4, q_eff=4, "
             "seed=0).rules)";
    narrow.of[r] = static_cast<float>(weights[r]);
    if (!(narrow.of[r] >= kSmallestWeight && narrow.of[r] <= 1.0f)) return "weights: want numbers in [2^-100, 1]";
  }
  if (!is_aligned(log_field)) return "log_field: want a 16-byte aligned pointer";
  if (!is_aligned(marginals)) return "marginals: want a 16-byte aligned pointer";
  const int64_t blocks = (B + kSamplesPerBlock - 1) / kSamplesPerBlock;
  if (B < 0 || blocks > INT32_MAX) return "B: want 0 to 2^36 samples";
  if (B == 0) return nullptr;
  BIASGEN_LAUNCH(tree_posterior_kernel, static_cast<unsigned>(blocks), kThreads, stream, log_field, narrow, B,
                 marginals, log_z, impossible);
  return launch_error();
}

}  // namespace biasgen
