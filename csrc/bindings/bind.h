// One function an op, which adds its entries to the module.
#pragma once
#include <pybind11/pybind11.h>

namespace biasgen {
void bind_empirical_denoise(pybind11::module_& m);
void bind_knn(pybind11::module_& m);
void bind_knn_direct(pybind11::module_& m);
void bind_knn_floats(pybind11::module_& m);
void bind_philox(pybind11::module_& m);
void bind_tree_posterior(pybind11::module_& m);
void bind_cuda_trees(pybind11::module_& m);
}  // namespace biasgen
