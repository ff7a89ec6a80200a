// The most probable derivations: logarithms in double, sums and maxima alone, so that equal terms give equal bits
// everywhere; one sample a lane.
#pragma once
#include <cstdint>
#include <type_traits>

#include "core/tree_exp.h"
#include "cpu/tree_messages-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

typedef Vec<double> Logs;
constexpr int kMapped = kLanes<double>;

// The logarithm of one of a symbol's rules times what its children say, in the order in which the torch backend adds.
template <int S, typename V, typename Child>
inline V log_term(const TreeRuleGroups& groups, int64_t r, Child child) {
  const auto& rule = static_cast<const TreeRule<S>*>(groups.rules)[r];
  V term = V{} + groups.log_weights[groups.number[r]];
  for (int c = 0; c < S; ++c) term += child(c, rule.others[c]);
  return term;
}

// The largest over each symbol's rules.
template <int S>
void largest_terms(const TreeRuleGroups& groups, int64_t Q, const Logs* children, Logs* message) {
  for (int64_t s = 0; s < Q; ++s) {
    Logs best = Logs{} - __builtin_inf();
    for (int64_t r = groups.begin[s]; r < groups.begin[s + 1]; ++r) {
      const Logs term = log_term<S, Logs>(groups, r, [&](int c, int32_t a) { return children[c * Q + a]; });
      best = term > best ? term : best;
    }
    message[s] = best;
  }
}

// The first of a symbol's rules that reaches the largest, for one sample.
template <int S>
int64_t largest_rule(const TreeRuleGroups& groups, int64_t symbol, const Logs* children, int64_t Q, int lane) {
  int64_t chosen = groups.begin[symbol];
  double best = -__builtin_inf();
  for (int64_t r = groups.begin[symbol]; r < groups.begin[symbol + 1]; ++r) {
    const double term = log_term<S, double>(groups, r, [&](int c, int32_t a) { return children[c * Q + a][lane]; });
    if (term > best) best = term, chosen = r;
  }
  return chosen;
}

// What one sample's evidence adds up to.
struct Evidence {
  double top = 0, top_error = 0, spread = 0;  // largest fields, and what rounding took from the sum; bits
  bool refused = false;                       // NaN or +inf
};

template <typename T>
Evidence read_logs(const T* row, int64_t L, int64_t Q, Logs* leaves, int lane) {
  Evidence found;
  for (int64_t leaf = 0; leaf < L; ++leaf) {
    if constexpr (!std::is_floating_point<T>::value) {
      for (int64_t a = 0; a < Q; ++a)
        leaves[leaf * Q + a][lane] = row[leaf] < 0 || row[leaf] == a ? 0.0 : -__builtin_inf();
    } else {
      double top = -__builtin_inf(), low = __builtin_inf();
      for (int64_t a = 0; a < Q; ++a) {
        const double f = row[leaf * Q + a];
        found.refused |= !(f < __builtin_inf());
        if (f > top) top = f;
        if (f > -__builtin_inf() && f < low) low = f;
      }
      if (!(top > -__builtin_inf())) top = low = 0;
      for (int64_t a = 0; a < Q; ++a) leaves[leaf * Q + a][lane] = row[leaf * Q + a] - top;
      const double sum = found.top + top, part = sum - found.top;
      found.top_error += (found.top - (sum - part)) + (top - part);
      found.top = sum;
      found.spread += (top - low) * kLog2E;
    }
  }
  return found;
}

template <int S, typename T>
__attribute__((noinline)) int64_t run_map(const TreeBatch& batch) {
  const Tree<S> tree(batch);
  const int64_t Q = tree.Q, L = tree.L, row = std::is_floating_point<T>::value ? L * Q : L;
  Logs* const messages = static_cast<Logs*>(batch.scratch);
  for (int64_t first = 0; first < batch.B; first += kMapped) {
    const int64_t count = batch.B - first < kMapped ? batch.B - first : kMapped;
    Evidence evidence[kMapped];
    for (int l = 0; l < kMapped; ++l) {  // lanes beyond the last sample repeat it
      const int64_t sample = first + (l < count ? l : count - 1);
      evidence[l] = read_logs(static_cast<const T*>(batch.evidence) + sample * row, L, Q,
                              messages + tree.start[tree.depth] * Q, l);
      if (evidence[l].refused || !(evidence[l].spread < kMaxSpread)) return sample;
    }
    int64_t width = L;
    for (int64_t level = tree.depth - 1; level >= tree.factorized; --level) {
      width /= S;
      for (int64_t node = 0; node < width; ++node)
        largest_terms<S>(batch.rules[level * (S + 1)], Q, messages + (tree.start[level + 1] + S * node) * Q,
                         messages + (tree.start[level] + node) * Q);
    }
    if (tree.factorized > 0) {
      Logs* const told = messages + tree.nodes() * Q;
      for (int64_t a = 0; a < Q; ++a) messages[a] = Logs{};
      for (int64_t j = 0; j < tree.hung(); ++j) {
        largest_terms<1>(batch.channels[2 * j], Q, messages + (tree.start[tree.factorized] + j) * Q, told);
        for (int64_t a = 0; a < Q; ++a) messages[a] += told[a];
      }
    }
    for (int l = 0; l < count; ++l) {
      double best = -__builtin_inf();
      int64_t root = 0;
      for (int64_t a = 0; a < Q; ++a) {
        const double heard = messages[a][l] + batch.log_prior[a];
        if (heard > best) best = heard, root = a;
      }
      batch.log_z[first + l] = best > -__builtin_inf() ? best + evidence[l].top + evidence[l].top_error : best;
      int16_t *nodes = reinterpret_cast<int16_t*>(messages + (tree.nodes() + 1) * Q), *children = nodes + L;
      nodes[0] = static_cast<int16_t>(root);
      for (int64_t j = 0; j < tree.hung(); ++j) {
        const TreeRuleGroups& channel = batch.channels[2 * j];
        const int64_t r = largest_rule<1>(channel, root, messages + (tree.start[tree.factorized] + j) * Q, Q, l);
        nodes[j] = static_cast<int16_t>(static_cast<const TreeRule<1>*>(channel.rules)[r].others[0]);
      }
      width = tree.factorized > 0 ? tree.hung() : 1;
      for (int64_t level = tree.factorized; level < tree.depth; ++level, width *= S) {
        const TreeRuleGroups& groups = batch.rules[level * (S + 1)];
        for (int64_t i = 0; i < width; ++i) {
          const Logs* below = messages + (tree.start[level + 1] + S * i) * Q;
          const int64_t r = largest_rule<S>(groups, nodes[i], below, Q, l);
          for (int c = 0; c < S; ++c)
            children[S * i + c] = static_cast<int16_t>(static_cast<const TreeRule<S>*>(groups.rules)[r].others[c]);
        }
        int16_t* const above = nodes;
        nodes = children;
        children = above;
      }
      write_string(batch.strings, first + l, nodes, L, best > -__builtin_inf());
    }
  }
  return -1;
}

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
