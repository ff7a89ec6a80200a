// Exact posterior of a complete tree of arity S: one source for every instruction set, one sample a lane.
//
// Every entry of a message is a pair (float mantissa, int32 exponent), so that no field is too large and no entry is
// lost; a sum is taken relative to its largest term. Nodes are numbered level by level, the root first.
#include <cstdint>
#include <cstring>

#include "core/tree_exp.h"
#include "cpu/simd-inl.h"
#include "cpu/tree_posterior.h"

namespace biasgen {
inline namespace BIASGEN_ISA {

constexpr int kSamples = kLanes<float>;

typedef float Float __attribute__((vector_size(kVectorBytes)));
typedef int32_t Int __attribute__((vector_size(kVectorBytes)));
typedef uint32_t Unsigned __attribute__((vector_size(kVectorBytes)));
typedef float Float4 __attribute__((vector_size(16)));
typedef double Double2 __attribute__((vector_size(16)));

// mantissa * 2^exponent. Zero is mantissa 0; its exponent is stored as 0 and takes part in no maximum.
struct Entry {
  Float mantissa;
  Int exponent;
};

// Stands for the exponent of a zero in a maximum: below every true exponent (kMaxSpread, and 1074 bits for each weight
// on the way), and still far enough from the end of int32 to be subtracted.
constexpr int32_t kNothing = -(3 << 29);

// m * 2^d where both are normal numbers; anything (unsigned, so that it may) elsewhere.
static inline Float add_exponent(Float m, Int d) { return (Float)((Unsigned)m + ((Unsigned)d << 23)); }

// m * 2^d for m = 0 or 1 <= m < 2^30 (2^25 terms of at most 2^5) and d <= 0; 0 where d is below -126.
static inline Float scale(Float m, Int d) { return d >= -126 ? add_exponent(m, d) : Float{}; }

static inline Int larger(Int a, Int b) { return a > b ? a : b; }

// Splits sum * 2^exponent, sum = 0 or >= 1, and keeps kNothing as the exponent of a zero.
static inline Entry split(Float sum, Int exponent) {
  const Int bits = (Int)sum;
  const Float mantissa = (Float)((bits & 0x7FFFFF) | 0x3F800000);
  const auto live = sum > 0.0f;
  return {live ? mantissa : Float{}, live ? exponent + (bits >> 23) - 127 : Int{} + kNothing};
}

// Rules that are summed one after the other: a sum of more is one of such runs, so that rounding stays small.
constexpr int64_t kRun = 64;

// Adds N terms, the product of the others' entries and the weight, to sum * 2^largest.
template <int N, int S>
static inline __attribute__((always_inline)) void add_terms(const TreeRule<S>* rule, const Entry* const* others,
                                                            Float& sum, Int& largest) {
  Float mantissa[N];
  Int exponent[N];
  const Int before = largest;
  for (int k = 0; k < N; ++k) {
    const Entry& first = others[0][rule[k].others[0]];
    mantissa[k] = first.mantissa;
    exponent[k] = first.exponent;
    for (int c = 1; c < S; ++c) {
      const Entry& next = others[c][rule[k].others[c]];
      mantissa[k] *= next.mantissa;
      exponent[k] += next.exponent;
    }
    mantissa[k] *= rule[k].mantissa;
    exponent[k] = mantissa[k] > 0.0f ? exponent[k] + rule[k].exponent : Int{} + kNothing;
    largest = larger(largest, exponent[k]);
  }
  sum = scale(sum, before - largest);
  for (int k = 0; k < N; ++k) sum += scale(mantissa[k], exponent[k] - largest);
}

// Adds the rules from `rule` to `end`.
template <int S>
static inline __attribute__((always_inline)) void add_rules(const TreeRule<S>* rule, const TreeRule<S>* end,
                                                            const Entry* const* others, Float& sum, Int& largest) {
  for (; end - rule >= 4; rule += 4) add_terms<4>(rule, others, sum, largest);
  switch (end - rule) {
    case 3:
      add_terms<3>(rule, others, sum, largest);
      break;
    case 2:
      add_terms<2>(rule, others, sum, largest);
      break;
    case 1:
      add_terms<1>(rule, others, sum, largest);
      break;
  }
}

// Adds whole runs until at most one is left, and returns where that begins.
template <int S>
static __attribute__((noinline)) const TreeRule<S>* add_runs(const TreeRule<S>* rule, const TreeRule<S>* end,
                                                             const Entry* const* others, Float& sum, Int& largest) {
  for (; end - rule > kRun; rule += kRun) {
    Float part{};
    Int part_largest = Int{} + kNothing;
    add_rules(rule, rule + kRun, others, part, part_largest);
    const Int both = larger(largest, part_largest);
    sum = scale(sum, largest - both) + scale(part, part_largest - both);
    largest = both;
  }
  return rule;
}

// message[s] = sum over the rules of symbol s of the S others' entries and the weight, divided by 2^shift so that its
// largest exponent is 0. Returns the shift (0 where all entries are zero). `message` may not overlap the others.
template <int S>
static Int combine(const TreeRuleGroups& groups, int64_t Q, const Entry* const* others, Entry* message) {
  Int top = Int{} + kNothing;
  for (int64_t s = 0; s < Q; ++s) {
    Float sum{};
    Int largest = Int{} + kNothing;
    const auto* rule = static_cast<const TreeRule<S>*>(groups.rules) + groups.begin[s];
    const auto* end = static_cast<const TreeRule<S>*>(groups.rules) + groups.begin[s + 1];
    if (__builtin_expect(end - rule > kRun, 0)) rule = add_runs(rule, end, others, sum, largest);
    add_rules(rule, end, others, sum, largest);
    message[s] = split(sum, largest);
    top = larger(top, message[s].exponent);
  }
  for (int64_t s = 0; s < Q; ++s) message[s].exponent = message[s].mantissa > 0.0f ? message[s].exponent - top : Int{};
  return top > kNothing ? top : Int{};
}

// ---- rows in, rows out: 16-byte blocks are transposed between row-major samples and one sample a lane ---------------

static inline void transpose(Float4& a, Float4& b, Float4& c, Float4& d) {
  const Float4 ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Float4 cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
}

// columns[c][lane] = rows[lane][start + c]
static void load_columns(const float* const* rows, int64_t start, int64_t count, float* columns) {
  int64_t c = 0;
  for (; c + 4 <= count; c += 4) {
    for (int lane = 0; lane < kSamples; lane += 4) {
      Float4 block[4];
      for (int r = 0; r < 4; ++r) std::memcpy(&block[r], rows[lane + r] + start + c, 16);
      transpose(block[0], block[1], block[2], block[3]);
      for (int r = 0; r < 4; ++r) std::memcpy(columns + (c + r) * kSamples + lane, &block[r], 16);
    }
  }
  for (; c < count; ++c)
    for (int lane = 0; lane < kSamples; ++lane) columns[c * kSamples + lane] = rows[lane][start + c];
}

static void load_columns(const double* const* rows, int64_t start, int64_t count, double* columns) {
  int64_t c = 0;
  for (; c + 2 <= count; c += 2) {
    for (int lane = 0; lane < kSamples; lane += 2) {
      Double2 a, b;
      std::memcpy(&a, rows[lane] + start + c, 16);
      std::memcpy(&b, rows[lane + 1] + start + c, 16);
      const Double2 low = __builtin_shufflevector(a, b, 0, 2), high = __builtin_shufflevector(a, b, 1, 3);
      std::memcpy(columns + c * kSamples + lane, &low, 16);
      std::memcpy(columns + (c + 1) * kSamples + lane, &high, 16);
    }
  }
  for (; c < count; ++c)
    for (int lane = 0; lane < kSamples; ++lane) columns[c * kSamples + lane] = rows[lane][start + c];
}

static void store_columns(const float* columns, int64_t start, int64_t count, float* const* rows) {
  int64_t c = 0;
  for (; c + 4 <= count; c += 4) {
    for (int lane = 0; lane < kSamples; lane += 4) {
      Float4 block[4];
      for (int r = 0; r < 4; ++r) std::memcpy(&block[r], columns + (c + r) * kSamples + lane, 16);
      transpose(block[0], block[1], block[2], block[3]);
      for (int r = 0; r < 4; ++r) std::memcpy(rows[lane + r] + start + c, &block[r], 16);
    }
  }
  for (; c < count; ++c)
    for (int lane = 0; lane < kSamples; ++lane) rows[lane][start + c] = columns[c * kSamples + lane];
}

// ---- leaves ---------------------------------------------------------------------------------------------------------

// Half a tile in double.
constexpr int kHalf = kSamples / 2;
typedef double Double __attribute__((vector_size(kVectorBytes)));
typedef int64_t Long __attribute__((vector_size(kVectorBytes)));
typedef float HalfFloat __attribute__((vector_size(kVectorBytes / 2)));
typedef int32_t HalfInt __attribute__((vector_size(kVectorBytes / 2)));

static inline Double load_half(const float* p) {
  HalfFloat x;
  std::memcpy(&x, p, sizeof x);
  return __builtin_convertvector(x, Double);
}

static inline Double load_half(const double* p) {
  Double x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

// What the leaves of half a tile add up to.
struct LeafSums {
  Double top, top_error;  // sum of the largest fields, and what rounding took from it
  Double spread;          // bits
  Long refused;           // not 0: NaN or +inf
};

// One leaf, half a tile: the field relative to its largest entry, in bits, as whole part (exponent) and fraction 0 .. 1
// (left in the mantissa's place for exp2_entries; -1 where the symbol is excluded). In double: a field of 1e5 leaves
// float32 no fraction.
template <typename T>
static void read_leaf(const T* columns, int64_t Q, int half, Entry* message, LeafSums& sums) {
  const Double infinity = Double{} + __builtin_inf();
  Double top = -infinity, low{};
  for (int64_t a = 0; a < Q; ++a) {
    const Double f = load_half(columns + a * kSamples + half * kHalf);
    top = f > top ? f : top;
    sums.refused |= ~(f < infinity);
  }
  for (int64_t a = 0; a < Q; ++a) {
    const Double f = load_half(columns + a * kSamples + half * kHalf);
    const auto allowed = f > -infinity;
    Double bits = allowed ? (f - top) * kLog2E : Double{};
    low = bits < low ? bits : low;
    bits = bits > -kMaxSpread ? bits
                              : Double{} - kMaxSpread;  // such a sample is refused, but until then int32 must hold it
    const HalfInt whole = __builtin_convertvector(bits, HalfInt) - 1;  // truncation of bits <= 0 is upward
    const Double fraction = bits - __builtin_convertvector(whole, Double);
    const HalfFloat g = __builtin_convertvector(allowed ? fraction : Double{} - 1.0, HalfFloat);
    std::memcpy(reinterpret_cast<float*>(&message[a].mantissa) + half * kHalf, &g, sizeof g);
    std::memcpy(reinterpret_cast<int32_t*>(&message[a].exponent) + half * kHalf, &whole, sizeof whole);
  }
  // Two-sum: fields of opposite sign on different leaves cancel, and log_z must not notice.
  const Double t = top > -infinity ? top : Double{};
  const Double sum = sums.top + t;
  const Double part = sum - sums.top;
  sums.top_error += (sums.top - (sum - part)) + (t - part);
  sums.top = sum;
  sums.spread -= low;
}

// Turns the fractions left by read_leaf into mantissas.
static void exp2_entries(Entry* entries, int64_t count) {
  const auto fused = [](Float a, Float b, Float c) { return multiply_add(a, b, c); };
  for (int64_t i = 0; i < count; ++i) {
    const Float g = entries[i].mantissa;
    const auto allowed = g >= 0.0f;
    entries[i].mantissa = allowed ? exp2_mantissa(g, fused) : Float{};
    entries[i].exponent = allowed ? entries[i].exponent : Int{};
  }
}

// Marginals of a node (Q vectors, one after the other): outside * inside, divided by their sum; below 2^-126, and
// without a sum, 0.
static void write_marginals(const Entry* outside, const Entry* inside, int64_t Q, float* columns) {
  // Relative to the largest entry / 2^32, so that an entry of 2^-126 of the sum is still a normal number.
  constexpr int32_t headroom = 32;
  Int top = Int{} + kNothing;
  for (int64_t a = 0; a < Q; ++a) {
    const Float m = outside[a].mantissa * inside[a].mantissa;
    top = larger(top, m > 0.0f ? outside[a].exponent + inside[a].exponent : Int{} + kNothing);
  }
  Float sum{};
  for (int64_t a = 0; a < Q; ++a) {
    const Float m = outside[a].mantissa * inside[a].mantissa;
    const Int d = outside[a].exponent + inside[a].exponent - top + headroom;
    const Float term = m > 0.0f ? (d >= -126 ? add_exponent(m, d) : Float{}) : Float{};
    std::memcpy(columns + a * kSamples, &term, kVectorBytes);
    sum += term;
  }
  const Float inverse = sum > 0.0f ? 1.0f / sum : Float{};
  for (int64_t a = 0; a < Q; ++a) {
    Float p;
    std::memcpy(&p, columns + a * kSamples, kVectorBytes);
    p *= inverse;
    p = p >= 0x1p-126f ? p : Float{};
    std::memcpy(columns + a * kSamples, &p, kVectorBytes);
  }
}

// ---- one tile of kSamples samples -----------------------------------------------------------------------------------

// A complete tree of arity S: level d has S^d nodes, which begin at start[d]; the leaves are level `depth`.
template <int S>
struct Shape {
  int64_t Q, L, depth, start[kMaxDepth + 2];
  explicit Shape(const TreeBatch& batch) : Q(batch.Q), L(batch.L), depth(0) {
    start[0] = 0;
    for (int64_t width = 1; width < L; width *= S) {
      start[depth + 1] = start[depth] + width;
      ++depth;
    }
    start[depth + 1] = start[depth] + L;
  }
  int64_t nodes() const { return start[depth + 1]; }
  int64_t group() const { return L < kLeafGroup ? L : (S == 3 ? 3 : kLeafGroup); }  // leaves transposed together
};

template <int S, typename T>
static void read_leaves(const Shape<S>& tree, const T* const* rows, Entry* messages, T* columns, LeafSums* sums) {
  const int64_t Q = tree.Q, group = tree.group();
  for (int64_t leaf = 0; leaf < tree.L; leaf += group) {
    load_columns(rows, leaf * Q, group * Q, columns);
    Entry* first = messages + (tree.start[tree.depth] + leaf) * Q;
    for (int64_t j = 0; j < group; ++j)
      for (int half = 0; half < 2; ++half) read_leaf(columns + j * Q * kSamples, Q, half, first + j * Q, sums[half]);
    exp2_entries(first, group * Q);
  }
}

// Leaves to root; families of leaves from left to right, each ancestor as soon as all its children are there. Returns
// the shifts' sum.
template <int S>
static Int upward(const Shape<S>& tree, const TreeRuleGroups* rules, Entry* messages) {
  const int64_t Q = tree.Q;
  Int shift{};
  for (int64_t family = 0; family < tree.L / S; ++family) {
    int64_t node = family;
    for (int64_t level = tree.depth - 1;; --level, node /= S) {
      const Entry* children[S];
      for (int c = 0; c < S; ++c) children[c] = messages + (tree.start[level + 1] + S * node + c) * Q;
      shift += combine<S>(rules[level * (S + 1)], Q, children, messages + (tree.start[level] + node) * Q);
      if (node % S != S - 1 || level == 0) break;
    }
  }
  return shift;
}

// messages[c] = what child c hears from its parent and its siblings.
template <int S>
static void to_children(const TreeRuleGroups* rules, int64_t Q, const Entry* parent, const Entry* children,
                        Entry* const* messages) {
  for (int c = 0; c < S; ++c) {
    const Entry* others[S];
    others[0] = parent;
    for (int i = 0, k = 1; i < S; ++i)
      if (i != c) others[k++] = children + i * Q;
    combine<S>(rules[c + 1], Q, others, messages[c]);
  }
}

// Root to leaves, in the same order. The message from above replaces the one from below, which no later step needs.
template <int S>
static void downward(const Shape<S>& tree, const TreeBatch& batch, Entry* messages, Entry* spare, float* columns,
                     float* const* rows) {
  const int64_t Q = tree.Q, families = tree.L / S, group = tree.group();
  const int64_t first_leaf = batch.all_levels ? tree.start[tree.depth] : 0;
  Entry* heard[S];  // the last child's replaces at once: nobody needs what it said
  for (int c = 0; c < S; ++c) heard[c] = spare + c * Q;
  const auto take_root = [&](Entry* to) {
    for (int64_t a = 0; a < Q; ++a) to[a] = {Float{} + batch.root[a].mantissa, Int{} + batch.root[a].exponent};
  };
  if (batch.all_levels) {
    take_root(spare);
    write_marginals(spare, messages, Q, columns);
    store_columns(columns, 0, Q, rows);
  }
  take_root(messages);
  for (int64_t family = 0; family < families; ++family) {
    int64_t rise = 0, width = 1;  // ancestors whose first leaf this is
    while (rise < tree.depth - 1 && family % (width * S) == 0) ++rise, width *= S;
    for (; rise > 0; --rise, width /= S) {
      const int64_t level = tree.depth - 1 - rise, node = family / width;
      Entry* children = messages + (tree.start[level + 1] + S * node) * Q;
      Entry* inside = children;
      if (batch.all_levels) {
        inside = spare + S * Q;
        std::memcpy(inside, children, S * Q * sizeof(Entry));
      }
      Entry* to[S];
      for (int c = 0; c < S; ++c) to[c] = c < S - 1 ? heard[c] : children + c * Q;
      to_children<S>(batch.rules + level * (S + 1), Q, messages + (tree.start[level] + node) * Q, children, to);
      std::memcpy(children, spare, (S - 1) * Q * sizeof(Entry));
      if (batch.all_levels) {
        for (int c = 0; c < S; ++c) write_marginals(children + c * Q, inside + c * Q, Q, columns + c * Q * kSamples);
        store_columns(columns, (tree.start[level + 1] + S * node) * Q, S * Q, rows);
      }
    }
    const int64_t leaf = S * family, slot = leaf % group;
    const Entry* leaves = messages + (tree.start[tree.depth] + leaf) * Q;
    const Entry* parent = messages + (tree.start[tree.depth - 1] + family) * Q;
    to_children<S>(batch.rules + (tree.depth - 1) * (S + 1), Q, parent, leaves, heard);
    for (int c = 0; c < S; ++c) write_marginals(heard[c], leaves + c * Q, Q, columns + (slot + c) * Q * kSamples);
    if (slot + S == group) store_columns(columns, (first_leaf + leaf + S - group) * Q, group * Q, rows);
  }
}

// Prior times message of the root: sum * 2^exponent.
static void evidence(const TreeBatch& batch, const Entry* message, Float& sum, Int& exponent) {
  exponent = Int{} + kNothing;
  for (int64_t a = 0; a < batch.Q; ++a) {
    const Float m = message[a].mantissa * batch.root[a].mantissa;
    exponent = larger(exponent, m > 0.0f ? message[a].exponent + batch.root[a].exponent : Int{} + kNothing);
  }
  sum = Float{};
  for (int64_t a = 0; a < batch.Q; ++a) {
    const Float m = message[a].mantissa * batch.root[a].mantissa;
    sum += m > 0.0f ? scale(m, message[a].exponent + batch.root[a].exponent - exponent) : Float{};
  }
}

template <int S, typename T>
static int64_t run(const TreeBatch& batch) {
  const Shape<S> tree(batch);
  const int64_t Q = batch.Q, row = batch.L * Q, out_row = batch.all_levels ? tree.nodes() * Q : row;
  Entry* messages = static_cast<Entry*>(batch.scratch);
  Entry* spare = messages + tree.nodes() * Q;
  void* columns = spare + 2 * S * Q;
  for (int64_t first = 0; first < batch.B; first += kSamples) {
    const int64_t count = batch.B - first < kSamples ? batch.B - first : kSamples;
    const T* in[kSamples];
    float* out[kSamples];
    for (int l = 0; l < kSamples; ++l) {  // lanes beyond the last sample repeat it
      const int64_t sample = first + (l < count ? l : count - 1);
      in[l] = static_cast<const T*>(batch.log_field) + sample * row;
      out[l] = batch.marginals + sample * out_row;
    }
    LeafSums sums[2]{};
    read_leaves(tree, in, messages, static_cast<T*>(columns), sums);
    for (int l = 0; l < count; ++l) {
      const LeafSums& half = sums[l / kHalf];
      if (half.refused[l % kHalf] != 0 || !(half.spread[l % kHalf] < kMaxSpread)) return first + l;
    }
    Int shift = upward(tree, batch.rules, messages), exponent;
    Float z;
    evidence(batch, messages, z, exponent);
    shift += z > 0.0f ? exponent : Int{};
    for (int l = 0; l < count; ++l) {
      const LeafSums& half = sums[l / kHalf];
      const double log_mantissa =
          __builtin_log((double)z[l]) + batch.log_root + kLn2 * shift[l] + half.top_error[l % kHalf];
      batch.impossible[first + l] = !(z[l] > 0);
      batch.log_z[first + l] = z[l] > 0 ? log_mantissa + half.top[l % kHalf] : -__builtin_inf();
    }
    downward(tree, batch, messages, spare, static_cast<float*>(columns), out);
  }
  return -1;
}

int64_t tree_posterior(const TreeBatch& batch) {
  if (batch.arity == 4) return batch.double_field ? run<4, double>(batch) : run<4, float>(batch);
  if (batch.arity == 3) return batch.double_field ? run<3, double>(batch) : run<3, float>(batch);
  return batch.double_field ? run<2, double>(batch) : run<2, float>(batch);
}

}  // namespace BIASGEN_ISA
}  // namespace biasgen
