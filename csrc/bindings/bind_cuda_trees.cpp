// biasgen._cuda's functions for trees: device pointers as integers (0: none), the grammar as arrays on the host.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>

#include "bindings/bind.h"
#include "cuda/tree_posterior.h"
#include "cuda/tree_sample.h"
#include "cuda/tree_trajectory.h"

namespace biasgen {
namespace py = pybind11;

namespace {

using Address = uintptr_t;
using RuleArray = py::array_t<int16_t, py::array::c_style>;
using WeightArray = py::array_t<double, py::array::c_style>;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

// A grammar (biasgen.ops.tree.Arrays) whose rules and weights say all, on the host.
struct Grammar {
  RuleArray rules;
  WeightArray weights;
  explicit Grammar(const py::object& grammar) {
    const py::object rules = grammar.attr("rules"), weights = grammar.attr("weights");
    if (!py::isinstance<RuleArray>(rules) || !py::isinstance<WeightArray>(weights))
      throw std::invalid_argument("rules, weights: want C-contiguous int16 and float64 arrays");
    this->rules = py::reinterpret_borrow<RuleArray>(rules),
    this->weights = py::reinterpret_borrow<WeightArray>(weights);
    if (this->rules.ndim() != 2 || this->rules.shape(1) != 3 || this->weights.ndim() != 1 ||
        this->weights.shape(0) != this->rules.shape(0))
      throw std::invalid_argument("rules, weights: want (R, 3) int16 and (R,) float64");
  }
};

void check_launch(const char* why_not) {
  if (why_not) throw std::runtime_error(why_not);
}

int64_t posterior_scratch(int64_t B, int64_t L, int64_t Q, const py::object& arrays, Address strings) {
  const Grammar grammar(arrays);
  TreePosteriorCall call{};
  call.B = B, call.L = L, call.Q = Q, call.R = grammar.rules.shape(0);
  call.rules = grammar.rules.data(), call.weights = grammar.weights.data();
  call.draws.strings = at<int8_t>(strings);
  return tree_posterior_scratch(&call);
}

void posterior(int64_t B, int64_t L, int64_t Q, const py::object& arrays, Address rule_lists, Address log_field,
               bool double_field, Address scratch, Address marginals, Address log_z, Address impossible,
               Address refused, int64_t draws, uint64_t seed, Address strings, Address stream) {
  const Grammar grammar(arrays);
  TreePosteriorCall call{};
  call.B = B, call.L = L, call.Q = Q, call.R = grammar.rules.shape(0);
  call.double_field = double_field;
  call.log_field = at<void>(log_field);
  call.rules = grammar.rules.data(), call.weights = grammar.weights.data(), call.rule_lists = at<int32_t>(rule_lists);
  call.scratch = at<void>(scratch);
  call.marginals = at<float>(marginals), call.log_z = at<double>(log_z);
  call.impossible = at<uint8_t>(impossible), call.refused = at<uint64_t>(refused);
  call.draws = {draws, seed, at<int8_t>(strings)};
  call.stream = at<void>(stream);
  py::gil_scoped_release unlocked;
  check_launch(launch_tree_posterior(&call));
}

void trajectory(int64_t B, int64_t steps, uint64_t seed, uint64_t offset, const py::object& arrays, Address levels,
                Address x, Address tokens, double start_scale, double start_sigma, int64_t start_step,
                int64_t start_purpose, Address noise, Address end, Address strings, Address x0_hat, Address score,
                Address log_density, Address refused, Address stream) {
  const Grammar grammar(arrays);
  TreeTrajectoryCall call{};
  call.B = B, call.R = grammar.rules.shape(0), call.steps = steps, call.seed = seed, call.offset = offset;
  call.rules = grammar.rules.data(), call.weights = grammar.weights.data(), call.levels = at<TreeStep>(levels);
  call.x = at<float>(x), call.tokens = at<int8_t>(tokens);
  call.start_scale = start_scale, call.start_sigma = start_sigma;
  call.start_step = start_step, call.start_purpose = start_purpose;
  call.noise = at<float>(noise);
  call.end = at<float>(end), call.strings = at<int8_t>(strings), call.x0_hat = at<float>(x0_hat);
  call.score = at<double>(score), call.log_density = at<double>(log_density), call.refused = at<uint64_t>(refused);
  call.stream = at<void>(stream);
  py::gil_scoped_release unlocked;
  check_launch(launch_tree_trajectory(&call));
}

void sample(int64_t n, int64_t L, int64_t Q, uint64_t seed, uint64_t offset, Address begin, Address children,
            Address cumulative, Address strings, Address stream) {
  const TreeSampleCall call{n,
                            L,
                            Q,
                            seed,
                            offset,
                            at<int32_t>(begin),
                            at<int8_t>(children),
                            at<double>(cumulative),
                            at<int8_t>(strings),
                            at<void>(stream)};
  py::gil_scoped_release unlocked;
  check_launch(launch_tree_sample(&call));
}

}  // namespace

void bind_cuda_trees(py::module_& m) {
  m.def("tree_posterior_scratch", &posterior_scratch, py::arg("B"), py::arg("L"), py::arg("Q"), py::arg("grammar"),
        py::arg("strings"), "Bytes of scratch that tree_posterior wants.");
  m.def("tree_posterior", &posterior, py::arg("B"), py::arg("L"), py::arg("Q"), py::arg("grammar"),
        py::arg("rule_lists"), py::arg("log_field"), py::arg("double_field"), py::arg("scratch"), py::arg("marginals"),
        py::arg("log_z"), py::arg("impossible"), py::arg("refused"), py::arg("draws"), py::arg("seed"),
        py::arg("strings"), py::arg("stream"), "Launches; see csrc/cuda/tree_posterior.h.");
  m.def("tree_trajectory", &trajectory, py::arg("B"), py::arg("steps"), py::arg("seed"), py::arg("offset"),
        py::arg("grammar"), py::arg("levels"), py::arg("x"), py::arg("tokens"), py::arg("start_scale"),
        py::arg("start_sigma"), py::arg("start_step"), py::arg("start_purpose"), py::arg("noise"), py::arg("end"),
        py::arg("strings"), py::arg("x0_hat"), py::arg("score"), py::arg("log_density"), py::arg("refused"),
        py::arg("stream"), "Launches; see csrc/cuda/tree_trajectory.h.");
  m.def("tree_sample", &sample, py::arg("n"), py::arg("L"), py::arg("Q"), py::arg("seed"), py::arg("offset"),
        py::arg("begin"), py::arg("children"), py::arg("cumulative"), py::arg("strings"), py::arg("stream"),
        "Launches; see csrc/cuda/tree_sample.h.");
}

}  // namespace biasgen
