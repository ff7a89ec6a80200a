// Rules of a tree for the tests of kernels: as kernels read them, and the probability of a string without any trick.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cpu/tree_posterior.h"

namespace biasgen {
namespace {

template <int S>
struct Rule {
  int64_t symbol[S + 1];  // parent, children
  double weight;
};

// Rules by one of their columns, with all that the groups point to.
template <int S>
struct Grouped {
  std::vector<TreeRule<S>> rules;
  std::vector<int64_t> begin, number;
  int64_t count, longest = 0;

  Grouped(const std::vector<Rule<S>>& all, int64_t Q, int key) : count(static_cast<int64_t>(all.size())) {
    for (int64_t s = 0; s < Q; ++s) {
      begin.push_back(static_cast<int64_t>(rules.size()));
      for (int64_t r = 0; r < count; ++r) {
        const Rule<S>& rule = all[r];
        if (rule.symbol[key] != s || rule.weight == 0) continue;
        TreeRule<S> seen;
        for (int c = 0, k = 0; c <= S; ++c)
          if (c != key) seen.others[k++] = static_cast<int32_t>(rule.symbol[c]);
        seen.mantissa = static_cast<float>(2 * std::frexp(rule.weight, &seen.exponent));
        --seen.exponent;
        rules.push_back(seen);
        number.push_back(r);
      }
      longest = std::max(longest, static_cast<int64_t>(rules.size()) - begin.back());
    }
    begin.push_back(static_cast<int64_t>(rules.size()));
  }
  TreeRuleGroups view() const { return {rules.data(), begin.data(), number.data(), count, longest, nullptr}; }
};

// The probability of a string of leaves below a symbol; or of its most probable derivation.
template <int S>
double probability(const std::vector<Rule<S>>& rules, int64_t symbol, const int64_t* leaves, int64_t L, bool most) {
  if (L == 1) return leaves[0] == symbol;
  double sum = 0;
  for (const Rule<S>& rule : rules) {
    if (rule.symbol[0] != symbol) continue;
    double p = rule.weight;
    for (int c = 0; c < S; ++c) p *= probability(rules, rule.symbol[c + 1], leaves + c * (L / S), L / S, most);
    sum = most ? std::max(sum, p) : sum + p;
  }
  return sum;
}

}  // namespace
}  // namespace biasgen
