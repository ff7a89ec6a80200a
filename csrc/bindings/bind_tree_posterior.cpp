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
  GroupedRules(const int16_t* rules, const double* weights, int64_t R, int64_t Q, int key)
      : count_(R), begin_(Q + 2, 0) {
    const auto used = [&](int64_t r) { return weights[r] != 0; };
    for (int64_t r = 0; r < R; ++r)
      if (used(r)) ++begin_[rules[(S + 1) * r + key] + 2];
    longest_ = *std::max_element(begin_.begin(), begin_.end());
    for (int64_t s = 2; s <= Q + 1; ++s) begin_[s] += begin_[s - 1];
    rules_.resize(begin_[Q + 1]);
    number_.resize(begin_[Q + 1]);
    for (int64_t r = 0; r < R; ++r) {
      if (!used(r)) continue;
      const int16_t* row = rules + (S + 1) * r;
      const int64_t place = begin_[row[key] + 1]++;
      TreeRule<S>& rule = rules_[place];
      number_[place] = r;
      for (int c = 0, k = 0; c <= S; ++c)
        if (c != key) rule.others[k++] = row[c];
      const double fraction = std::frexp(weights[r], &rule.exponent);
      rule.mantissa = static_cast<float>(2 * fraction);
      --rule.exponent;
    }
  }
  TreeRuleGroups view() const { return {rules_.data(), begin_.data(), number_.data(), count_, longest_, nullptr}; }

 private:
  int64_t count_, longest_;
  std::vector<TreeRule<S>> rules_;
  std::vector<int64_t> begin_, number_;  // begin_: where each symbol's begin; one more while they are counted
};

// The blocks of every level by each column, where an empty block stands for that of the level above.
template <int S>
class Grammar {
 public:
  Grammar(const int16_t* rules, const double* weights, const double* log_weights, const int64_t* offsets, int64_t depth,
          int64_t Q) {
    for (int64_t level = 0; level < depth; ++level) {
      const int64_t first = offsets[level], R = offsets[level + 1] - first;
      for (int key = 0; key <= S; ++key) {
        if (R > 0) blocks_.emplace_back(rules + (S + 1) * first, weights + first, R, Q, key);
        levels_.push_back(R > 0 ? blocks_.back().view() : levels_[levels_.size() - S - 1]);
        if (R > 0 && log_weights != nullptr) levels_.back().log_weights = log_weights + first;
      }
    }
  }
  const TreeRuleGroups* levels() const { return levels_.data(); }

 private:
  std::deque<GroupedRules<S>> blocks_;
  std::vector<TreeRuleGroups> levels_;
};

// The channels of the nodes that hang on the root, each as rules from the root's symbol to the node's.
class Channels {
 public:
  Channels(const double* channels, const double* log_channels, int64_t hung, int64_t Q) {
    std::vector<int16_t> pairs;
    for (int64_t r = 0; r < Q; ++r)
      for (int64_t c = 0; c < Q; ++c) pairs.insert(pairs.end(), {static_cast<int16_t>(r), static_cast<int16_t>(c)});
    for (int64_t j = 0; j < hung; ++j) {
      for (int key = 0; key < 2; ++key) {
        blocks_.emplace_back(pairs.data(), channels + j * Q * Q, Q * Q, Q, key);
        views_.push_back(blocks_.back().view());
        if (log_channels != nullptr) views_.back().log_weights = log_channels + j * Q * Q;
      }
    }
  }
  const TreeRuleGroups* views() const { return views_.data(); }

 private:
  std::deque<GroupedRules<1>> blocks_;
  std::vector<TreeRuleGroups> views_;
};

// A grammar as arrays, checked. root relative to its largest entry.
struct Model {
  const int16_t* rules;
  const double *weights, *channels, *log_weights = nullptr, *log_channels = nullptr;
  const int64_t* offsets;
  std::vector<TreePrior> root;

  // Fills what the batch says of the grammar but its rules, which run() groups.
  Model(const py::array_t<int16_t>& rules, const Doubles& weights, const Int64& level_offsets, const Doubles& root,
        const Doubles& channels, TreeBatch& batch)
      : rules(rules.data()), weights(weights.data()), channels(channels.data()), offsets(level_offsets.data()) {
    require(rules.ndim() == 2 && rules.shape(1) >= 3 && rules.shape(1) <= 5 && contiguous(rules),
            "rules: want a C-contiguous (R, 1 + s) array, s = 2, 3 or 4");
    const int64_t R = rules.shape(0), Q = root.size(), depth = level_offsets.size() - 1;
    batch.arity = rules.shape(1) - 1, batch.depth = depth, batch.Q = Q, batch.L = 1;
    for (int64_t d = 0; d < depth && batch.L <= 4096; ++d) batch.L *= batch.arity;
    require(depth >= 1 && batch.L <= 4096 && Q >= 1 && Q <= 256,
            "root: want Q = 1 .. 256 symbols and L = s^depth <= 4096 leaves");
    check_vector(weights, R, "weights: want a C-contiguous (R,) array");
    check_vector(level_offsets, depth + 1, "level_offsets: want a C-contiguous (depth + 1,) array");
    require(offsets[0] == 0 && offsets[1] > 0 && offsets[depth] == R && std::is_sorted(offsets, offsets + depth + 1),
            "level_offsets: want ascending numbers from 0 to R, the first level's block not empty");
    check_vector(root, Q, "root: want a C-contiguous (Q,) array");
    require(std::all_of(rules.data(), rules.data() + rules.size(), [Q](int16_t s) { return s >= 0 && s < Q; }),
            "rules: want symbols 0 .. Q - 1");
    const auto probabilities = [](const double* p, int64_t n) {
      return std::all_of(p, p + n, [](double w) { return w >= 0 && w <= 2; });
    };
    require(probabilities(this->weights, R), "weights: want probabilities");
    const double largest = *std::max_element(root.data(), root.data() + Q);
    require(probabilities(root.data(), Q) && largest > 0, "root: want probabilities");
    batch.top = 0;
    int64_t hung = 0;
    if (channels.size() > 0) {
      for (hung = 1; batch.top < depth && hung < channels.shape(0); ++batch.top) hung *= batch.arity;
      require(channels.ndim() == 3 && batch.top > 0 && channels.shape(0) == hung && channels.shape(1) == Q &&
                  channels.shape(2) == Q && contiguous(channels),
              "channels: want a C-contiguous (s^k, Q, Q) array, k >= 1");
      require(probabilities(this->channels, channels.size()), "channels: want probabilities");
    }
    batch.log_root = std::log(largest);
    this->root.resize(Q);
    for (int64_t a = 0; a < Q; ++a) {
      if (root.data()[a] == 0) continue;
      int exponent, unit, rest;
      const double fraction = std::frexp(root.data()[a], &exponent) / std::frexp(largest, &unit);
      this->root[a] = {static_cast<float>(2 * std::frexp(fraction, &rest)), 0};
      this->root[a].exponent = exponent - unit + rest - 1;
    }
    batch.root = this->root.data();
  }

  // Nodes of the levels that have some.
  static int64_t nodes(const TreeBatch& batch) {
    int64_t sum = 0, width = 1;
    for (int64_t level = 0; level <= batch.depth; ++level, width *= batch.arity)
      if (level == 0 || level >= batch.top) sum += width;
    return sum;
  }

  int64_t run(Isa isa, TreeBatch& batch) const {
    if (batch.arity == 4) return with_rules<4>(isa, batch);
    if (batch.arity == 3) return with_rules<3>(isa, batch);
    return with_rules<2>(isa, batch);
  }

 private:
  template <int S>
  int64_t with_rules(Isa isa, TreeBatch& batch) const {
    const Grammar<S> grammar(rules, weights, log_weights, offsets, batch.depth, batch.Q);
    int64_t hung = batch.top > 0, numbers = 0, width = 1;
    for (int64_t d = 0; d < batch.top; ++d) hung *= S;
    const Channels grouped(channels, log_channels, hung, batch.Q);
    batch.rules = grammar.levels(), batch.channels = grouped.views(), batch.choices = batch.Q;
    std::vector<int64_t> start;
    int64_t most = 0;
    for (int64_t level = 0; level < batch.depth; ++level, width *= S) {
      const TreeRuleGroups& groups = batch.rules[level * (S + 1)];
      start.push_back(numbers);
      if (level >= batch.top) numbers += width * groups.count;
      most = std::max(most, groups.count);
      batch.choices = std::max(batch.choices, groups.longest);
    }
    require(batch.output != TreeOutput::rules || batch.rules_row == numbers, "rule_marginals: want a number a rule");
    batch.rule_start = start.data();
    batch.scratch_bytes = tree_posterior_scratch(batch.L, batch.Q, S, nodes(batch), hung,
                                                 batch.output == TreeOutput::rules ? most : 0, batch.choices);
    const Scratch scratch = make_scratch(batch.scratch_bytes);
    batch.scratch = scratch.get();
#ifdef BIASGEN_X86
    if (isa == Isa::avx512) return avx512::tree_posterior(batch);
    if (isa == Isa::avx2) return avx2::tree_posterior(batch);
#endif
    static_cast<void>(isa);
    return baseline::tree_posterior(batch);
  }
};

void check_evidence(const py::array& evidence, TreeBatch& batch) {
  const bool tokens = py::isinstance<py::array_t<int8_t>>(evidence) || py::isinstance<py::array_t<int16_t>>(evidence);
  batch.type = py::isinstance<py::array_t<int8_t>>(evidence)    ? TreeEvidence::int8
               : py::isinstance<py::array_t<int16_t>>(evidence) ? TreeEvidence::int16
               : py::isinstance<Doubles>(evidence)              ? TreeEvidence::float64
                                                                : TreeEvidence::float32;
  require(tokens || batch.type == TreeEvidence::float64 || py::isinstance<py::array_t<float>>(evidence),
          "evidence: want float32, float64, int8 or int16");
  require(contiguous(evidence) && evidence.ndim() == (tokens ? 2 : 3) && evidence.shape(1) == batch.L &&
              (tokens || evidence.shape(2) == batch.Q),
          "evidence: want a C-contiguous (B, L, Q) array of fields or (B, L) of tokens");
  batch.B = evidence.shape(0);
  batch.evidence = evidence.data();
}

int64_t tree_posterior_entry(const std::string& isa_name, const py::array& evidence, const py::array_t<int16_t>& rules,
                             const Doubles& weights, const Int64& level_offsets, const Doubles& root,
                             const Doubles& channels, py::array_t<float>& marginals, Doubles& log_z,
                             py::array_t<bool>& impossible, py::array_t<float>& rule_marginals, bool stream) {
  const Isa isa = parse_isa(isa_name);
  TreeBatch batch{};
  const Model model(rules, weights, level_offsets, root, channels, batch);
  check_evidence(evidence, batch);
  const int64_t B = batch.B, nodes = Model::nodes(batch);
  require(marginals.ndim() == 3 && marginals.shape(0) == B && marginals.shape(2) == batch.Q && contiguous(marginals) &&
              (marginals.shape(1) == 0 || marginals.shape(1) == batch.L || marginals.shape(1) == nodes),
          "marginals: want a C-contiguous (B, 0, L or nodes, Q) array");
  require(rule_marginals.ndim() == 2 && rule_marginals.shape(0) == B && contiguous(rule_marginals) &&
              (rule_marginals.shape(1) == 0 || marginals.shape(1) == nodes),
          "rule_marginals: want a C-contiguous (B, numbers) array, none without the marginals of all nodes");
  check_vector(log_z, B, "log_z: want a C-contiguous (B,) array");
  check_vector(impossible, B, "impossible: want a C-contiguous (B,) array");
  batch.output = rule_marginals.shape(1) > 0     ? TreeOutput::rules
                 : marginals.shape(1) == 0       ? TreeOutput::none
                 : marginals.shape(1) == batch.L ? TreeOutput::leaves
                                                 : TreeOutput::all;
  batch.marginals = marginals.mutable_data(), batch.marginals_row = marginals.shape(1) * batch.Q;
  batch.rule_marginals = rule_marginals.mutable_data(), batch.rules_row = rule_marginals.shape(1);
  batch.stream = stream;
  batch.log_z = log_z.mutable_data();
  batch.impossible = impossible.mutable_data();
  py::gil_scoped_release unlocked;
  DefaultFpState fp_state;
  return model.run(isa, batch);
}

void check_strings(py::array& strings, TreeBatch& batch) {
  batch.strings.wide = py::isinstance<py::array_t<int16_t>>(strings);
  require(batch.strings.wide || py::isinstance<py::array_t<int8_t>>(strings), "strings: want int8 or int16");
  require(batch.strings.wide || batch.Q <= 127, "strings: want int16 for more than 127 symbols");
  require(strings.ndim() == 3 && strings.shape(0) == batch.B && strings.shape(2) == batch.L && contiguous(strings),
          "strings: want a C-contiguous (B, n, L) array");
  batch.strings.tokens = strings.mutable_data();
}

int64_t tree_posterior_sample_entry(const std::string& isa_name, const py::array& evidence,
                                    const py::array_t<int16_t>& rules, const Doubles& weights,
                                    const Int64& level_offsets, const Doubles& root, const Doubles& channels,
                                    uint64_t seed, int64_t first, py::array& strings) {
  const Isa isa = parse_isa(isa_name);
  TreeBatch batch{};
  const Model model(rules, weights, level_offsets, root, channels, batch);
  check_evidence(evidence, batch);
  check_strings(strings, batch);
  batch.strings.n = strings.shape(1), batch.strings.seed = seed, batch.strings.first = first;
  py::gil_scoped_release unlocked;
  DefaultFpState fp_state;
  return model.run(isa, batch);
}

int64_t tree_map_entry(const std::string& isa_name, const py::array& evidence, const py::array_t<int16_t>& rules,
                       const Doubles& weights, const Int64& level_offsets, const Doubles& root, const Doubles& channels,
                       const Doubles& log_weights, const Doubles& log_root, const Doubles& log_channels,
                       py::array& strings, Doubles& log_p) {
  const Isa isa = parse_isa(isa_name);
  TreeBatch batch{};
  Model model(rules, weights, level_offsets, root, channels, batch);
  check_evidence(evidence, batch);
  check_strings(strings, batch);
  require(strings.shape(1) == 1, "strings: want one of each sample");
  check_vector(log_p, batch.B, "log_p: want a C-contiguous (B,) array");
  require(log_weights.size() == weights.size() && log_root.size() == batch.Q &&
              log_channels.size() == channels.size() && contiguous(log_weights) && contiguous(log_root) &&
              contiguous(log_channels),
          "log_weights, log_root, log_channels: want the logarithms of the probabilities");
  model.log_weights = log_weights.data(), model.log_channels = log_channels.data();
  batch.log_prior = log_root.data(), batch.log_z = log_p.mutable_data();
  py::gil_scoped_release unlocked;
  DefaultFpState fp_state;
  return model.run(isa, batch);
}

}  // namespace

void bind_tree_posterior(py::module_& m) {
  m.def(
      "tree_posterior", &tree_posterior_entry, py::arg("isa"), py::arg("evidence").noconvert(),
      py::arg("rules").noconvert(), py::arg("weights").noconvert(), py::arg("level_offsets").noconvert(),
      py::arg("root").noconvert(), py::arg("channels").noconvert(), py::arg("marginals").noconvert(),
      py::arg("log_z").noconvert(), py::arg("impossible").noconvert(), py::arg("rule_marginals").noconvert(),
      py::arg("stream"),
      "Fills log_z and impossible, marginals and rule_marginals where they have room; returns -1, or the first sample "
      "that is refused.");
  m.def("tree_posterior_sample", &tree_posterior_sample_entry, py::arg("isa"), py::arg("evidence").noconvert(),
        py::arg("rules").noconvert(), py::arg("weights").noconvert(), py::arg("level_offsets").noconvert(),
        py::arg("root").noconvert(), py::arg("channels").noconvert(), py::arg("seed"), py::arg("first"),
        py::arg("strings").noconvert(),
        "Fills strings, by the numbers of samples from `first`; returns -1, or the first sample that is refused.");
  m.def("tree_map", &tree_map_entry, py::arg("isa"), py::arg("evidence").noconvert(), py::arg("rules").noconvert(),
        py::arg("weights").noconvert(), py::arg("level_offsets").noconvert(), py::arg("root").noconvert(),
        py::arg("channels").noconvert(), py::arg("log_weights").noconvert(), py::arg("log_root").noconvert(),
        py::arg("log_channels").noconvert(), py::arg("strings").noconvert(), py::arg("log_p").noconvert(),
        "Fills strings (B, 1, L) and log_p; returns -1, or the first sample that is refused.");
}

}  // namespace biasgen
