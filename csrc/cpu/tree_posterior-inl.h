// Exact posterior of a complete tree of arity S, and strings drawn from it: one source for every instruction set.
#include <cstdint>
#include <cstring>

#include "cpu/tree_draw-inl.h"
#include "cpu/tree_leaves-inl.h"
#include "cpu/tree_map-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

// A share below 2^-126 is 0; asked before the division, which would be slow where it gives such a number. A little
// more, so that rounding gives none.
constexpr float kFlushed = 0x1.00001p-126f;

// Marginals of a node (Q vectors, one after the other): outside * inside, divided by their sum; below 2^-126, and
// without a sum, 0.
inline void write_marginals(const Entry* outside, const Entry* inside, int64_t Q, float* columns) {
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
  const Float least = sum * kFlushed;
  for (int64_t a = 0; a < Q; ++a) {
    Float p;
    std::memcpy(&p, columns + a * kSamples, kVectorBytes);
    p = p >= least ? p * inverse : Float{};
    std::memcpy(columns + a * kSamples, &p, kVectorBytes);
  }
}

// The sum of outside * inside over a node's symbols, as sum * 2^top.
inline void total(const Entry* outside, const Entry* inside, int64_t Q, Float& sum, Int& top) {
  top = Int{} + kNothing;
  for (int64_t a = 0; a < Q; ++a) {
    const Float m = outside[a].mantissa * inside[a].mantissa;
    top = larger(top, m > 0.0f ? outside[a].exponent + inside[a].exponent : Int{} + kNothing);
  }
  sum = Float{};
  for (int64_t a = 0; a < Q; ++a) {
    const Float m = outside[a].mantissa * inside[a].mantissa;
    sum += m > 0.0f ? scale(m, outside[a].exponent + inside[a].exponent - top) : Float{};
  }
}

// Probabilities of the rules at a node, by their numbers: what the parent hears * what the children say * the weight,
// divided by its sum, which is that over the parent's symbols; below 2^-126, and without a sum, 0.
template <int S>
void write_rules(const TreeRuleGroups& groups, int64_t Q, const Entry* parent, const Entry* const* children,
                 Entry* message, float* columns) {
  combine<S>(groups, Q, children, message);
  Float sum;
  Int top;
  total(parent, message, Q, sum, top);
  constexpr int32_t headroom = 32;  // as in write_marginals
  const Float inverse = sum > 0.0f ? 0x1p-32f / sum : Float{};
  const Float least = sum * 0x1p32f * kFlushed;
  std::memset(columns, 0, groups.count * kVectorBytes);
  const auto* rules = static_cast<const TreeRule<S>*>(groups.rules);
  for (int64_t a = 0; a < Q; ++a) {
    for (int64_t r = groups.begin[a]; r < groups.begin[a + 1]; ++r) {
      Float m = parent[a].mantissa * rules[r].mantissa;
      Int d = parent[a].exponent + rules[r].exponent - top + headroom;
      for (int c = 0; c < S; ++c) {
        const Entry& child = children[c][rules[r].others[c]];
        m *= child.mantissa;
        d += child.exponent;
      }
      Float p = m > 0.0f ? (d >= -126 ? add_exponent(m, d) : Float{}) : Float{};
      p = p >= least ? p * inverse : Float{};
      std::memcpy(columns + groups.number[r] * kSamples, &p, kVectorBytes);
    }
  }
}

// ---- one tile of kSamples samples -----------------------------------------------------------------------------------

template <int S, typename T>
void read_leaves(const TreeBatch& batch, const Tree<S>& tree, int64_t first, int64_t count, Entry* messages,
                 void* columns, LeafSums* sums) {
  const int64_t Q = tree.Q, group = tree.group();
  Entry* leaves = messages + tree.start[tree.depth] * Q;
  const T* rows[kSamples];
  for (int l = 0; l < kSamples; ++l) {  // lanes beyond the last sample repeat it
    const int64_t sample = first + (l < count ? l : count - 1);
    rows[l] = static_cast<const T*>(batch.evidence) + sample * tree.L * (std::is_floating_point<T>::value ? Q : 1);
  }
  for (int64_t leaf = 0; leaf < tree.L; leaf += group) {
    Entry* message = leaves + leaf * Q;
    if constexpr (std::is_floating_point<T>::value) {
      T* fields = static_cast<T*>(columns);
      load_columns(rows, leaf * Q, group * Q, fields);
      for (int64_t j = 0; j < group; ++j)
        for (int half = 0; half < 2; ++half) read_leaf(fields + j * Q * kSamples, Q, half, message + j * Q, sums[half]);
      exp2_entries(message, group * Q);
    } else {
      for (int64_t j = 0; j < group; ++j) read_token(rows, leaf + j, Q, message + j * Q);
    }
  }
}

// Leaves to root; families of leaves from left to right, each ancestor as soon as all its children are there.
template <int S>
void upward(const Tree<S>& tree, const TreeRuleGroups* rules, Entry* messages) {
  const int64_t Q = tree.Q;
  for (int64_t family = 0; family < tree.L / S; ++family) {
    int64_t node = family;
    for (int64_t level = tree.depth - 1; level >= tree.factorized; --level, node /= S) {
      const Entry* children[S];
      for (int c = 0; c < S; ++c) children[c] = messages + (tree.start[level + 1] + S * node + c) * Q;
      combine<S>(rules[level * (S + 1)], Q, children, messages + (tree.start[level] + node) * Q);
      if (node % S != S - 1) break;
    }
  }
}

// What the nodes that hang on the root tell it, and the products of what the last ones tell; the root's message is that
// of all.
template <int S>
void upward_hung(const Tree<S>& tree, const TreeRuleGroups* channels, Entry* messages, Entry* told, Entry* products) {
  const int64_t Q = tree.Q, last = tree.hung() - 1;
  for (int64_t j = last; j >= 0; --j) {
    const Entry* child = messages + (tree.start[tree.factorized] + j) * Q;
    combine<1>(channels[2 * j], Q, &child, told + j * Q);
    if (j == last)
      std::memcpy(products + j * Q, told + j * Q, Q * sizeof(Entry));
    else
      multiply(told + j * Q, products + (j + 1) * Q, Q, products + j * Q);
  }
  std::memcpy(messages, products, Q * sizeof(Entry));
}

// messages[c] = what child c hears from its parent and its siblings.
template <int S>
void to_children(const TreeRuleGroups* rules, int64_t Q, const Entry* parent, const Entry* children,
                 Entry* const* messages) {
  for (int c = 0; c < S; ++c) {
    const Entry* others[S];
    others[0] = parent;
    for (int i = 0, k = 1; i < S; ++i)
      if (i != c) others[k++] = children + i * Q;
    combine<S>(rules[c + 1], Q, others, messages[c]);
  }
}

// Where a tile's marginals go: from columns, nodes or rules one after the other, to the samples' rows.
struct Rows {
  float* columns;
  float* marginals[kSamples];
  float* rules[kSamples];
};

// Root to leaves, in the order of upward. The message from above replaces the one from below, which no later step
// needs.
template <int S>
void downward(const Tree<S>& tree, const TreeBatch& batch, const Space<S>& space, const Rows& rows) {
  const int64_t Q = tree.Q, group = tree.group();
  const bool all = batch.output >= TreeOutput::all, ruled = batch.output == TreeOutput::rules;
  Entry* const messages = space.messages;
  Entry* const spare = space.spare;
  float* const columns = rows.columns;
  Entry* heard[S];  // the last child's replaces at once: nobody needs what it said
  for (int c = 0; c < S; ++c) heard[c] = spare + c * Q;
  Entry* const inside = spare + S * Q;
  Entry* const prior = inside + S * Q;
  if (all) {
    write_marginals(prior, messages, Q, columns);
    store_columns(columns, 0, Q, rows.marginals);
  }
  const auto write_family_rules = [&](int64_t level, int64_t node, const Entry* parent, const Entry* children) {
    const TreeRuleGroups& groups = batch.rules[level * (S + 1)];
    const Entry* each[S];
    for (int c = 0; c < S; ++c) each[c] = children + c * Q;
    write_rules<S>(groups, Q, parent, each, inside, columns);
    store_columns(columns, batch.rule_start[level] + node * groups.count, groups.count, rows.rules);
  };
  // Each hung node hears the prior and what the others told: those before it in `prior`, those behind it in products.
  const int64_t first_leaf = all ? tree.start[tree.depth] : 0;
  const int64_t first_hung = tree.factorized == tree.depth ? first_leaf : tree.start[tree.factorized];
  for (int64_t j = 0; j < tree.hung(); ++j) {
    const Entry* cavity = prior;
    if (j + 1 < tree.hung()) {
      multiply(prior, space.products + (j + 1) * Q, Q, spare);
      cavity = spare;
    }
    Entry* const node = messages + (tree.start[tree.factorized] + j) * Q;
    combine<1>(batch.channels[2 * j + 1], Q, &cavity, inside);
    if (all || tree.factorized == tree.depth) {
      write_marginals(inside, node, Q, columns);
      store_columns(columns, (first_hung + j) * Q, Q, rows.marginals);
    }
    std::memcpy(node, inside, Q * sizeof(Entry));
    multiply(prior, space.told + j * Q, Q, prior);
  }
  if (tree.factorized == tree.depth) return;
  if (tree.factorized == 0) std::memcpy(messages, prior, Q * sizeof(Entry));

  for (int64_t family = 0; family < tree.L / S; ++family) {
    int64_t rise = 0, width = 1;  // ancestors whose first leaf this is
    while (rise < tree.depth - 1 - tree.factorized && family % (width * S) == 0) ++rise, width *= S;
    for (; rise > 0; --rise, width /= S) {
      const int64_t level = tree.depth - 1 - rise, node = family / width;
      const Entry* parent = messages + (tree.start[level] + node) * Q;
      Entry* children = messages + (tree.start[level + 1] + S * node) * Q;
      if (ruled) write_family_rules(level, node, parent, children);
      if (all) std::memcpy(inside, children, S * Q * sizeof(Entry));
      Entry* to[S];
      for (int c = 0; c < S; ++c) to[c] = c < S - 1 ? heard[c] : children + c * Q;
      to_children<S>(batch.rules + level * (S + 1), Q, parent, children, to);
      std::memcpy(children, spare, (S - 1) * Q * sizeof(Entry));
      if (all) {
        for (int c = 0; c < S; ++c) write_marginals(children + c * Q, inside + c * Q, Q, columns + c * Q * kSamples);
        store_columns(columns, (tree.start[level + 1] + S * node) * Q, S * Q, rows.marginals);
      }
    }
    const int64_t leaf = S * family, slot = leaf % group;
    const Entry* leaves = messages + (tree.start[tree.depth] + leaf) * Q;
    const Entry* parent = messages + (tree.start[tree.depth - 1] + family) * Q;
    if (ruled) write_family_rules(tree.depth - 1, family, parent, leaves);
    to_children<S>(batch.rules + (tree.depth - 1) * (S + 1), Q, parent, leaves, heard);
    float* const place = ruled ? columns : columns + slot * Q * kSamples;
    for (int c = 0; c < S; ++c) write_marginals(heard[c], leaves + c * Q, Q, place + c * Q * kSamples);
    if (ruled)
      store_columns(columns, (first_leaf + leaf) * Q, S * Q, rows.marginals);
    else if (slot + S == group)
      store_columns(columns, (first_leaf + leaf + S - group) * Q, group * Q, rows.marginals);
  }
}

// log_z of a tile, of what is possible. The logarithm of 1 <= z = m 2^e, 1 <= m < 2, is that of m / sqrt(2), by the
// series of the inverse hyperbolic tangent in s = (m - sqrt(2)) / (m + sqrt(2)), |s| < 0.172, to 1e-9, and e + 1/2
// times that of 2.
inline void write_log_z(const TreeBatch& batch, Float z, Int exponent, const LeafSums* sums, double* log_z) {
  constexpr double root_of_2 = 1.4142135623730951;
  const Int bits = (Int)z;
  float mantissas[kSamples];
  int32_t exponents[kSamples];
  store(mantissas, (Float)((bits & 0x7FFFFF) | 0x3F800000));
  store(exponents, exponent + (bits >> 23) - 127);
  for (int half = 0; half < 2; ++half) {
    HalfInt whole;
    std::memcpy(&whole, exponents + half * kHalf, sizeof whole);
    const Double m = load_half(mantissas + half * kHalf), s = (m - root_of_2) / (m + root_of_2), y = s * s;
    const Double series = 2.0 * s * (1.0 + y * (1 / 3.0 + y * (1 / 5.0 + y * (1 / 7.0 + y * (1 / 9.0)))));
    const Double log_of_z = series + kLn2 * (__builtin_convertvector(whole, Double) + 0.5);
    store(log_z + half * kHalf, log_of_z + batch.log_root + sums[half].top_error + sums[half].top);
  }
}

// A copy that reads no line before it writes it.
inline void stream(float* to, const float* from, int64_t count) {
#if defined(__SSE2__)
  for (int64_t i = 0; i < count; i += 4) _mm_stream_ps(to + i, _mm_load_ps(from + i));
#else
  std::memcpy(to, from, count * sizeof(float));
#endif
}

template <int S>
int64_t run(const TreeBatch& batch) {
  if (batch.log_prior != nullptr)
    return batch.type == TreeEvidence::float64   ? run_map<S, double>(batch)
           : batch.type == TreeEvidence::float32 ? run_map<S, float>(batch)
           : batch.type == TreeEvidence::int16   ? run_map<S, int16_t>(batch)
                                                 : run_map<S, int8_t>(batch);
  const Tree<S> tree(batch);
  const Space<S> space(batch, tree);
  const auto read = batch.type == TreeEvidence::float64   ? read_leaves<S, double>
                    : batch.type == TreeEvidence::float32 ? read_leaves<S, float>
                    : batch.type == TreeEvidence::int16   ? read_leaves<S, int16_t>
                                                          : read_leaves<S, int8_t>;
  Rows rows;
  rows.columns = static_cast<float*>(space.columns);
  const bool staged = batch.stream && batch.marginals_row % 4 == 0 &&
                      reinterpret_cast<uintptr_t>(batch.marginals) % 16 == 0 &&
                      kSamples * batch.marginals_row * int64_t{sizeof(float)} <= kStage;
  for (int64_t first = 0; first < batch.B; first += kSamples) {
    const int64_t count = batch.B - first < kSamples ? batch.B - first : kSamples;
    LeafSums sums[2]{};
    read(batch, tree, first, count, space.messages, space.columns, sums);
    for (int l = 0; l < count; ++l) {
      const LeafSums& half = sums[l / kHalf];
      if (half.refused[l % kHalf] != 0 || !(half.spread[l % kHalf] < kMaxSpread)) return first + l;
    }
    upward(tree, batch.rules, space.messages);
    if (tree.factorized > 0) upward_hung(tree, batch.channels, space.messages, space.told, space.products);
    if (batch.strings.n >= 0) {
      for (int l = 0; l < count; ++l) draw(tree, batch, space, l, first + l);
      continue;
    }
    Float z;
    Int exponent;
    Entry* const prior = space.spare + 2 * S * tree.Q;  // where downward finds it
    for (int64_t a = 0; a < tree.Q; ++a) prior[a] = {Float{} + batch.root[a].mantissa, Int{} + batch.root[a].exponent};
    total(prior, space.messages, tree.Q, z, exponent);
    double log_z[kSamples];
    write_log_z(batch, z, exponent, sums, log_z);
    for (int l = 0; l < count; ++l) {
      batch.impossible[first + l] = !(z[l] > 0);
      batch.log_z[first + l] = z[l] > 0 ? log_z[l] : -__builtin_inf();
    }
    if (batch.output == TreeOutput::none) continue;
    for (int l = 0; l < kSamples; ++l) {
      const int64_t sample = first + (l < count ? l : count - 1);
      rows.marginals[l] =
          staged ? space.stage + l * batch.marginals_row : batch.marginals + sample * batch.marginals_row;
      rows.rules[l] = batch.rule_marginals + sample * batch.rules_row;
    }
    downward(tree, batch, space, rows);
    if (staged) stream(batch.marginals + first * batch.marginals_row, space.stage, count * batch.marginals_row);
  }
#if defined(__SSE2__)
  _mm_sfence();
#endif
  return -1;
}

}  // namespace

int64_t tree_posterior(const TreeBatch& batch) {
  return batch.arity == 4 ? run<4>(batch) : batch.arity == 3 ? run<3>(batch) : run<2>(batch);
}

}  // namespace BIASGEN_ISA
}  // namespace biasgen
