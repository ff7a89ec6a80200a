// Rules of a tree for the tests of kernels: as kernels read them, and the probability of a string without any trick.
#pragma once
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

template <int S>
TreeRuleGroups grouped(const std::vector<Rule<S>>& rules, int64_t Q, int key, std::vector<TreeRule<S>>& to,
                       std::vector<int64_t>& begin) {
  for (int64_t s = 0; s < Q; ++s) {
    begin.push_back(static_cast<int64_t>(to.size()));
    for (const Rule<S>& rule : rules) {
      if (rule.symbol[key] != s) continue;
      TreeRule<S> seen;
      for (int c = 0, k = 0; c <= S; ++c)
        if (c != key) seen.others[k++] = static_cast<int32_t>(rule.symbol[c]);
      seen.mantissa = static_cast<float>(2 * std::frexp(rule.weight, &seen.exponent));
      --seen.exponent;
      to.push_back(seen);
    }
  }
  begin.push_back(static_cast<int64_t>(to.size()));
  return {to.data(), begin.data()};
}

// The probability of a string of leaves below a symbol.
template <int S>
double probability(const std::vector<Rule<S>>& rules, int64_t symbol, const int64_t* leaves, int64_t L) {
  if (L == 1) return leaves[0] == symbol;
  double sum = 0;
  for (const Rule<S>& rule : rules) {
    if (rule.symbol[0] != symbol) continue;
    double p = rule.weight;
    for (int c = 0; c < S; ++c) p *= probability(rules, rule.symbol[c + 1], leaves + c * (L / S), L / S);
    sum += p;
  }
  return sum;
}

}  // namespace
}  // namespace biasgen
