// Strings from the posterior of one sample, whose messages towards the root are there, by its random numbers.
#pragma once
#include <cstdint>

#include "core/philox.h"
#include "cpu/tree_messages-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

// The random numbers of one string, in their order.
struct Numbers {
  uint64_t seed, sample;
  uint32_t step, word[4];
  int64_t used;
  double next() {
    if (used % 4 == 0) philox_words(seed, sample, step, kPosterior, static_cast<uint32_t>(used / 4), word);
    return uniform(word[used++ % 4]);
  }
};

// m * 2^d for d <= 0, 0 where d is below -1022.
inline double scale(double m, int64_t d) {
  if (d < -1022) return 0;
  const int64_t bits = (d + 1023) << 52;
  double power;
  std::memcpy(&power, &bits, sizeof power);
  return m * power;
}

// The first of n choices, which weigh mantissa * 2^exponent, at which their running sum reaches u of the whole, so
// never one that weighs nothing; -1 where none weighs anything. weights: both, and room for the sum.
inline int64_t choose(Weight* weights, int64_t n, double u) {
  int64_t top = kNothing;
  for (int64_t i = 0; i < n; ++i)
    if (weights[i].mantissa > 0 && weights[i].exponent > top) top = weights[i].exponent;
  if (top == kNothing) return -1;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (weights[i].mantissa > 0) sum += scale(weights[i].mantissa, weights[i].exponent - top);
    weights[i].mantissa = sum;
  }
  const double want = u * sum;
  int64_t i = 0;
  while (weights[i].mantissa < want) ++i;
  return i;
}

// The weights of the choices between the rules of one symbol, by the messages of the nodes that they expand it to.
template <int S>
int64_t weigh(const TreeRuleGroups& groups, int64_t symbol, const Entry* children, int64_t Q, int lane,
              Weight* weights) {
  const auto* rules = static_cast<const TreeRule<S>*>(groups.rules) + groups.begin[symbol];
  const int64_t n = groups.begin[symbol + 1] - groups.begin[symbol];
  for (int64_t r = 0; r < n; ++r) {
    Weight w{rules[r].mantissa, rules[r].exponent};
    for (int c = 0; c < S; ++c) {
      const Entry& child = children[c * Q + rules[r].others[c]];
      w.mantissa *= static_cast<double>(child.mantissa[lane]);
      w.exponent += child.exponent[lane];
    }
    weights[r] = w;
  }
  return n;
}

// A string to its row, or -1 where there is none.
inline void write_string(const TreeStrings& strings, int64_t row, const int16_t* tokens, int64_t L, bool possible) {
  for (int64_t i = 0; i < L; ++i) {
    const int16_t token = possible ? tokens[i] : int16_t{-1};
    if (strings.wide)
      static_cast<int16_t*>(strings.tokens)[row * L + i] = token;
    else
      static_cast<int8_t*>(strings.tokens)[row * L + i] = static_cast<int8_t>(token);
  }
}

// batch.strings.n strings of one sample.
template <int S>
void draw(const Tree<S>& tree, const TreeBatch& batch, const Space<S>& space, int lane, int64_t sample) {
  const TreeStrings& strings = batch.strings;
  const int64_t Q = tree.Q, L = tree.L;
  for (int64_t k = 0; k < strings.n; ++k) {
    Numbers numbers{strings.seed, static_cast<uint64_t>(strings.first + sample), static_cast<uint32_t>(k), {}, 0};
    int16_t *nodes = space.nodes, *children = nodes + L;
    for (int64_t a = 0; a < Q; ++a) {
      const Entry& entry = space.messages[a];
      space.weights[a] = {static_cast<double>(entry.mantissa[lane]) * static_cast<double>(batch.root[a].mantissa),
                          int64_t{entry.exponent[lane]} + batch.root[a].exponent};
    }
    const int64_t root = choose(space.weights, Q, numbers.next());
    if (root >= 0) {
      nodes[0] = static_cast<int16_t>(root);
      for (int64_t j = 0; j < tree.hung(); ++j) {
        const TreeRuleGroups& channel = batch.channels[2 * j];
        const int64_t n =
            weigh<1>(channel, root, space.messages + (tree.start[tree.factorized] + j) * Q, Q, lane, space.weights);
        const auto* symbols = static_cast<const TreeRule<1>*>(channel.rules) + channel.begin[root];
        nodes[j] = static_cast<int16_t>(symbols[choose(space.weights, n, numbers.next())].others[0]);
      }
      int64_t width = tree.factorized > 0 ? tree.hung() : 1;
      for (int64_t level = tree.factorized; level < tree.depth; ++level, width *= S) {
        const TreeRuleGroups& groups = batch.rules[level * (S + 1)];
        const Entry* below = space.messages + tree.start[level + 1] * Q;
        for (int64_t i = 0; i < width; ++i) {
          const int64_t n = weigh<S>(groups, nodes[i], below + S * i * Q, Q, lane, space.weights);
          const auto* rules = static_cast<const TreeRule<S>*>(groups.rules) + groups.begin[nodes[i]];
          const TreeRule<S>& rule = rules[choose(space.weights, n, numbers.next())];
          for (int c = 0; c < S; ++c) children[S * i + c] = static_cast<int16_t>(rule.others[c]);
        }
        int16_t* const above = nodes;
        nodes = children;
        children = above;
      }
    }
    write_string(strings, sample * strings.n + k, nodes, L, root >= 0);
  }
}

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
