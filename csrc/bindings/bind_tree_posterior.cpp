// biasgen._cpu.tree_posterior: checks arrays, groups the rules, picks the instruction set.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/bind.h"
#include "bindings/checks.h"
#include "cpu/fp_state.h"
#include "cpu/isa.h"
#include "cpu/tree_posterior.h"

namespace biasgen {

namespace {

// Rules grouped by one of their S + 1 columns; what the kernel reads.
template <int S>
class GroupedRules {
 public:
  GroupedRules(const int16_t* rules, const double* weights, int64_t R, int64_t Q, int key) : begin_(Q + 2, 0) {
    const auto used = [&](int64_t r) { return weights[r] != 0; };
    for (int64_t r = 0; r < R; ++r)
      if (used(r)) ++begin_[rules[(S + 1) * r + key] + 2];
    for (int64_t s = 2; s <= Q + 1; ++s) begin_[s] += begin_[s - 1];
    rules_.resize(begin_[Q + 1]);
    for (int64_t r = 0; r < R; ++r) {
      if (!used(r)) continue;
      const int16_t* row = rules + (S + 1) * r;
      TreeRule<S>& rule = rules_[begin_[row[key] + 1]++];
      for (int c = 0, k = 0; c <= S; ++c)
        if (c != key) rule.others[k++] = row[c];
      const double fraction = std::frexp(weights[r], &rule.exponent);
      rule.mantissa = static_cast<float>(2 * fraction);
      --rule.exponent;
    }
  }
  TreeRuleGroups view() const { return {rules_.data(), begin_.data()}; }

 private:
  std::vector<TreeRule<S>> rules_;
  std::vector<int64_t> begin_;  // where each symbol's begin; one more while they are counted
};

// The blocks of every level by each column, where an empty block stands for that of the level above.
template <int S>
class Grammar {
 public:
  Grammar(const int16_t* rules, const double* weights, const int64_t* offsets, int64_t depth, int64_t Q) {
    for (int64_t level = 0; level < depth; ++level) {
      const int64_t first = offsets[level], R = offsets[level + 1] - first;
      for (int key = 0; key <= S; ++key) {
        if (R > 0) blocks_.emplace_back(rules + (S + 1) * first, weights + first, R, Q, key);
        levels_.push_back(R > 0 ? blocks_.back().view() : levels_[levels_.size() - S - 1]);
      }
    }
  }
  const TreeRuleGroups* levels() const { return levels_.data(); }

 private:
  std::deque<GroupedRules<S>> blocks_;
  std::vector<TreeRuleGroups> levels_;
};

int64_t run(Isa isa, const TreeBatch& batch) {
#ifdef BIASGEN_X86
  if (isa == Isa::avx512) return avx512::tree_posterior(batch);
  if (isa == Isa::avx2) return avx2::tree_posterior(batch);
#endif
  static_cast<void>(isa);
  return baseline::tree_posterior(batch);
}

template <int S>
int64_t with_grammar(Isa isa, TreeBatch& batch, const int16_t* rules, const double* weights, const int64_t* offsets,
                     int64_t depth) {
  const Grammar<S> grammar(rules, weights, offsets, depth, batch.Q);
  batch.rules = grammar.levels();
  return run(isa, batch);
}

int64_t tree_posterior_entry(const std::string& isa_name, const py::array& log_field, const py::array_t<int16_t>& rules,
                             const Doubles& weights, const Int64& level_offsets, const Doubles& root,
                             py::array_t<float>& marginals, Doubles& log_z, py::array_t<bool>& impossible) {
  const Isa isa = parse_isa(isa_name);
  const bool double_field = py::isinstance<Doubles>(log_field);
  require(double_field || py::isinstance<py::array_t<float>>(log_field), "log_field: want float32 or float64");
  require(log_field.ndim() == 3 && contiguous(log_field), "log_field: want a C-contiguous (B, L, Q) array");
  const int64_t B = log_field.shape(0), L = log_field.shape(1), Q = log_field.shape(2);
  require(rules.ndim() == 2 && rules.shape(1) >= 3 && rules.shape(1) <= 5 && contiguous(rules),
          "rules: want a C-contiguous (R, 1 + s) array, s = 2, 3 or 4");
  const int64_t R = rules.shape(0), arity = rules.shape(1) - 1, depth = level_offsets.size() - 1;
  int64_t leaves = 1;
  for (int64_t d = 0; d < depth && leaves <= 4096; ++d) leaves *= arity;
  require(depth >= 1 && L == leaves && L <= 4096 && Q >= 1 && Q <= 256,
          "log_field: want L = s^depth <= 4096 leaves and Q = 1 .. 256 symbols");
  check_vector(weights, R, "weights: want a C-contiguous (R,) array");
  check_vector(level_offsets, depth + 1, "level_offsets: want a C-contiguous (depth + 1,) array");
  const int64_t* offsets = level_offsets.data();
  require(offsets[0] == 0 && offsets[1] > 0 && offsets[depth] == R && std::is_sorted(offsets, offsets + depth + 1),
          "level_offsets: want ascending numbers from 0 to R, the first level's block not empty");
  check_vector(root, Q, "root: want a C-contiguous (Q,) array");
  require(std::all_of(rules.data(), rules.data() + rules.size(), [Q](int16_t s) { return s >= 0 && s < Q; }),
          "rules: want symbols 0 .. Q - 1");
  const auto probability = [](double w) { return w >= 0 && w <= 2; };
  require(std::all_of(weights.data(), weights.data() + R, probability), "weights: want probabilities");
  const double largest = *std::max_element(root.data(), root.data() + Q);
  require(std::all_of(root.data(), root.data() + Q, probability) && largest > 0, "root: want probabilities");
  const int64_t nodes = (arity * L - 1) / (arity - 1);
  require(marginals.ndim() == 3 && marginals.shape(0) == B &&
              (marginals.shape(1) == L || marginals.shape(1) == nodes) && marginals.shape(2) == Q &&
              contiguous(marginals),
          "marginals: want a C-contiguous (B, L, Q) or (B, nodes, Q) array");
  check_vector(log_z, B, "log_z: want a C-contiguous (B,) array");
  check_vector(impossible, B, "impossible: want a C-contiguous (B,) array");
  TreeBatch batch{};
  batch.B = B, batch.L = L, batch.Q = Q, batch.arity = arity;
  batch.log_field = log_field.data();
  batch.double_field = double_field;
  batch.all_levels = marginals.shape(1) == nodes;
  batch.log_root = std::log(largest);
  batch.marginals = marginals.mutable_data();
  batch.log_z = log_z.mutable_data();
  batch.impossible = impossible.mutable_data();
  const int16_t* rule = rules.data();
  const double* weight = weights.data();
  const double* prior = root.data();

  py::gil_scoped_release unlocked;
  DefaultFpState fp_state;
  std::vector<TreePrior> entries(Q);
  for (int64_t a = 0; a < Q; ++a) {
    if (prior[a] == 0) continue;
    int exponent, unit;
    const double fraction = std::frexp(prior[a], &exponent) / std::frexp(largest, &unit);
    int rest;
    const double mantissa = std::frexp(fraction, &rest);
    entries[a] = {static_cast<float>(2 * mantissa), exponent - unit + rest - 1};
  }
  batch.root = entries.data();
  const Scratch scratch = make_scratch(tree_posterior_scratch(L, Q, arity));
  batch.scratch = scratch.get();
  if (arity == 4) return with_grammar<4>(isa, batch, rule, weight, offsets, depth);
  if (arity == 3) return with_grammar<3>(isa, batch, rule, weight, offsets, depth);
  return with_grammar<2>(isa, batch, rule, weight, offsets, depth);
}

}  // namespace

void bind_tree_posterior(py::module_& m) {
  m.def("tree_posterior", &tree_posterior_entry, py::arg("isa"), py::arg("log_field").noconvert(),
        py::arg("rules").noconvert(), py::arg("weights").noconvert(), py::arg("level_offsets").noconvert(),
        py::arg("root").noconvert(), py::arg("marginals").noconvert(), py::arg("log_z").noconvert(),
        py::arg("impossible").noconvert(),
        "Fills marginals, of all nodes where they have room for them, log_z and impossible; returns -1, or the first "
        "sample that is refused.");
}

}  // namespace biasgen
