// The kernels of trees against sums over all strings.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "tests/kernels.h"
#include "tests/tree_rules.h"

namespace biasgen {
namespace {

// A tree of arity S with what the kernel reads of it; the nodes of level `factorized`, where it is above 0, hang on the
// root.
template <int S>
struct TestTree {
  int64_t Q, L, depth = 0, factorized, nodes = 0, hung = 0, numbers = 0;
  std::vector<Rule<S>> rules;
  std::vector<Rule<1>> channel;  // of every hung node
  std::vector<Grouped<S>> groups;
  std::vector<Grouped<1>> channel_groups;
  std::vector<TreeRuleGroups> levels, channels;
  std::vector<TreePrior> root;
  std::vector<int64_t> start, rule_start;
  std::vector<double> log_weights, log_channel, log_root;

  TestTree(int64_t Q, int64_t L, int64_t factorized) : Q(Q), L(L), factorized(factorized), root(Q, {1.0f, 0}) {
    for (int64_t s = 0; s < Q; ++s) {
      for (int64_t i = 0; i < 2; ++i) {
        Rule<S> rule{{s}, i ? 0.7 : 0.3};
        for (int64_t c = 1; c <= S; ++c) rule.symbol[c] = (c * s + i) % Q;
        rules.push_back(rule);
        channel.push_back({{s, (s + i) % Q}, i ? 0.75 : 0.25});
      }
    }
    for (int key = 0; key <= S; ++key) groups.emplace_back(rules, Q, key);
    for (int key = 0; key < 2; ++key) channel_groups.emplace_back(channel, Q, key);
    int64_t width = 1;
    for (; width <= L; width *= S, ++depth) {
      start.push_back(nodes);
      if (depth == 0 || depth >= factorized) nodes += width;
      if (depth == factorized && factorized > 0) hung = width;
      if (width == L) break;
      for (const auto& group : groups) levels.push_back(group.view());
      rule_start.push_back(numbers);
      if (depth >= factorized) numbers += width * static_cast<int64_t>(rules.size());
    }
    start.push_back(nodes);
    for (int64_t j = 0; j < hung; ++j)
      for (const auto& group : channel_groups) channels.push_back(group.view());
    for (const auto& rule : rules) log_weights.push_back(std::log(rule.weight));
    for (const auto& rule : channel) log_channel.push_back(std::log(rule.weight));
    for (auto& level : levels) level.log_weights = log_weights.data();
    for (auto& node : channels) node.log_weights = log_channel.data();
    log_root.assign(Q, -std::log(double(Q)));
  }

  TreeBatch batch(int64_t B, TreeOutput output) const {
    TreeBatch batch{};
    batch.B = B, batch.L = L, batch.Q = Q, batch.arity = S, batch.depth = depth;
    batch.factorized = factorized, batch.start = start.data();
    batch.rules = levels.data(), batch.channels = channels.data(), batch.rule_start = rule_start.data();
    batch.root = root.data(), batch.log_root = -std::log(double(Q)), batch.output = output;
    batch.marginals_row = (output == TreeOutput::leaves ? L : output == TreeOutput::none ? 0 : nodes) * Q;
    batch.rules_row = output == TreeOutput::rules ? numbers : 0;
    batch.choices = std::max<int64_t>(Q, 2);
    batch.scratch_bytes = tree_posterior_scratch(L, Q, S, nodes, hung, batch.rules_row > 0 ? 2 * Q : 0, batch.choices);
    return batch;
  }

  // The probability of a string, or of its most probable derivation.
  double prior(const int64_t* leaves, bool most = false) const {
    double sum = 0;
    for (int64_t r = 0; r < Q; ++r) {
      double p = 1;
      if (factorized == 0) p = probability(rules, r, leaves, L, most);
      for (int64_t j = 0; j < hung; ++j) {
        double node = 0;
        for (const auto& rule : channel) {
          if (rule.symbol[0] != r) continue;
          const double one = rule.weight * probability(rules, rule.symbol[1], leaves + j * (L / hung), L / hung, most);
          node = most ? std::max(node, one) : node + one;
        }
        p *= node;
      }
      sum = most ? std::max(sum, p) : sum + p;
    }
    return sum / double(Q);
  }
};

// What a kernel fills.
struct TreeFound {
  std::vector<float> marginals, rules;
  std::vector<double> log_z;
  std::unique_ptr<bool[]> impossible;
};

TreeFound run_tree(const Kernels& kernel, TreeBatch batch, const void* evidence, TreeEvidence type) {
  TreeFound found{std::vector<float>(batch.B * batch.marginals_row), std::vector<float>(batch.B * batch.rules_row),
                  std::vector<double>(batch.B), std::unique_ptr<bool[]>(new bool[batch.B])};
  const auto space = scratch(batch.scratch_bytes);
  batch.evidence = evidence, batch.type = type, batch.scratch = space.get();
  batch.marginals = found.marginals.data(), batch.rule_marginals = found.rules.data();
  batch.log_z = found.log_z.data(), batch.impossible = found.impossible.get();
  check(kernel.tree_posterior(batch) == -1, "no sample is refused");
  return found;
}

// Every output of a batch against the sum over all strings, which weigh exp(field).
template <int S>
void check_tree(const Kernels& kernel, const TestTree<S>& tree, int64_t B, const void* evidence, TreeEvidence type,
                const std::vector<double>& field) {
  const int64_t L = tree.L, Q = tree.Q, row = L * Q;
  const TreeFound found = run_tree(kernel, tree.batch(B, TreeOutput::leaves), evidence, type);
  const TreeFound nothing = run_tree(kernel, tree.batch(B, TreeOutput::none), evidence, type);
  const TreeFound all = run_tree(kernel, tree.batch(B, TreeOutput::all), evidence, type);
  const TreeFound ruled = run_tree(kernel, tree.batch(B, TreeOutput::rules), evidence, type);
  check(nothing.log_z == found.log_z && all.log_z == found.log_z, "log_z does not depend on the marginals");
  check(all.marginals == ruled.marginals, "all levels, with rules and without");
  for (int64_t b = 0; b < B; ++b) {
    const float* leaves = &all.marginals[(b + 1) * tree.nodes * Q - row];
    check(std::equal(leaves, leaves + row, &found.marginals[b * row]), "leaves");
    const int64_t families = L / S, R = static_cast<int64_t>(tree.rules.size());
    for (int64_t i = 0; tree.factorized < tree.depth && i < families;
         ++i) {  // the leaves' parents: their rules add up to them
      std::vector<double> sum(Q);
      for (int64_t r = 0; r < R; ++r)
        sum[tree.rules[r].symbol[0]] += ruled.rules[(b + 1) * tree.numbers - (families - i) * R + r];
      const float* parent = &all.marginals[(b + 1) * tree.nodes * Q - row - (families - i) * Q];
      for (int64_t a = 0; a < Q; ++a)
        check(std::fabs(sum[a] - static_cast<double>(parent[a])) <= 1e-5, "rules add up to the parent's marginals");
    }
  }

  int64_t strings = 1;
  for (int64_t i = 0; i < L; ++i) strings *= Q;
  std::vector<double> prior(strings);
  std::vector<int64_t> leaves(strings * L);
  for (int64_t s = 0; s < strings; ++s) {
    for (int64_t i = 0, rest = s; i < L; ++i, rest /= Q) leaves[s * L + i] = rest % Q;
    prior[s] = tree.prior(&leaves[s * L]);
  }
  const int64_t n = 3;
  std::vector<int8_t> drawn(B * n * L);
  TreeBatch batch = tree.batch(B, TreeOutput::none);
  const auto space = scratch(batch.scratch_bytes);
  batch.evidence = evidence, batch.type = type, batch.scratch = space.get();
  batch.strings.n = n, batch.strings.tokens = drawn.data();
  check(kernel.tree_posterior(batch) == -1, "no sample is refused, strings");
  std::vector<int8_t> likeliest(B * L);
  std::vector<double> log_p(B);
  batch.strings.n = -1, batch.strings.tokens = likeliest.data();
  batch.log_prior = tree.log_root.data(), batch.log_z = log_p.data();
  check(kernel.tree_posterior(batch) == -1, "no sample is refused, most probable derivations");
  for (int64_t b = 0; b < B; ++b) {
    std::vector<double> mass(row);
    double z = 0, most = 0;
    for (int64_t s = 0; s < strings; ++s) {
      double p = prior[s];
      for (int64_t i = 0; i < L; ++i) p *= std::exp(field[b * row + i * Q + leaves[s * L + i]]);
      for (int64_t i = 0; i < L; ++i) mass[i * Q + leaves[s * L + i]] += p;
      z += p;
      if (p > 0) most = std::max(most, p / prior[s] * tree.prior(&leaves[s * L], true));
    }
    check(found.impossible[b] == (z == 0), "impossible");
    check(z == 0 ? found.log_z[b] == -INFINITY : std::fabs(found.log_z[b] - std::log(z)) < 1e-5, "log_z");
    for (int64_t i = 0; i < row; ++i) {
      const double want = z == 0 ? 0 : mass[i] / z;
      check(std::fabs(static_cast<double>(found.marginals[b * row + i]) - want) <= 1e-5 * want, "marginals");
    }
    check(z == 0 ? log_p[b] == -INFINITY : std::fabs(log_p[b] - std::log(most)) < 1e-9, "largest probability");
    double reached = 0;
    if (z > 0) {
      const std::vector<int64_t> string(&likeliest[b * L], &likeliest[b * L] + L);
      reached = tree.prior(string.data(), true);
      for (int64_t i = 0; i < L; ++i) reached *= std::exp(field[b * row + i * Q + string[i]]);
    }
    check(std::fabs(reached - most) <= 1e-9 * most, "the string that reaches it");
    for (int64_t k = 0; k < n; ++k) {
      const int8_t* string = &drawn[(b * n + k) * L];
      for (int64_t i = 0; i < L; ++i)
        check(z == 0 ? string[i] == -1 : string[i] >= 0 && mass[i * Q + string[i]] > 0, "strings are possible");
    }
  }
}

// The last sample allows nothing; the last but one string of tokens saw nothing.
template <int S, class T>
void test_tree(const Kernels& kernel, int64_t B, int64_t L, int64_t Q) {
  int64_t depth = 0;
  for (int64_t width = 1; width < L; width *= S) ++depth;
  for (int64_t factorized = 0; factorized <= depth; ++factorized) {
    const TestTree<S> tree(Q, L, factorized);
    const int64_t row = L * Q;
    std::vector<T> field(B * row);
    for (auto& f : field) f = static_cast<T>(below(4000)) / 1000 - 2;
    std::fill(field.end() - row, field.end() - row + Q, static_cast<T>(-INFINITY));
    const auto type = sizeof(T) == 8 ? TreeEvidence::float64 : TreeEvidence::float32;
    check_tree(kernel, tree, B, field.data(), type, std::vector<double>(field.begin(), field.end()));
    const auto test_tokens = [&](auto zero, TreeEvidence kind) {
      std::vector<decltype(zero)> tokens(B * L);
      std::vector<double> sure(B * row);
      for (int64_t i = 0; i < B * L; ++i) {
        tokens[i] = static_cast<decltype(zero)>(i / L == B - 2 ? -1 : below(Q + 1) - 1);
        for (int64_t a = 0; a < Q; ++a) sure[i * Q + a] = tokens[i] < 0 || tokens[i] == a ? 0 : -INFINITY;
      }
      check_tree(kernel, tree, B, tokens.data(), kind, sure);
    };
    test_tokens(int8_t{}, TreeEvidence::int8);
    test_tokens(int16_t{}, TreeEvidence::int16);

    field[row - 1] = static_cast<T>(NAN);
    TreeBatch batch = tree.batch(B, TreeOutput::none);
    std::vector<double> log_z(B);
    const std::unique_ptr<bool[]> impossible(new bool[B]);
    const auto space = scratch(batch.scratch_bytes);
    batch.evidence = field.data(), batch.type = type, batch.scratch = space.get();
    batch.log_z = log_z.data(), batch.impossible = impossible.get();
    check(kernel.tree_posterior(batch) == 0, "NaN is refused");
  }
}

}  // namespace
}  // namespace biasgen
