// A rule list as kernels read it at run time: grouped three times, by each of a rule's symbols.
#pragma once
#include <cstdint>

namespace biasgen {

// One rule as seen from one of its three symbols: the other two, and the weight as mantissa (1 <= m < 2, or 0) and
// exponent.
struct alignas(16) ListedRule {
  int32_t first, second;
  float mantissa;
  int32_t exponent;
};

enum RuleGroup { kByParent, kByLeft, kByRight };  // first, second: left, right; parent, right; parent, left

// 32-bit words of a list: 3 R rules, then (3, Q + 1) numbers: the rules of symbol s in group g are begin[g][s] ..
// begin[g][s + 1] - 1. biasgen/backends/_cuda_trees.py makes it.
inline int64_t rule_list_words(int64_t R, int64_t Q) { return 3 * R * 4 + 3 * (Q + 1); }

}  // namespace biasgen
