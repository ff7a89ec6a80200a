// biasgen._cuda: the module.
#include <pybind11/pybind11.h>

#include <string>

#include "bindings/bind.h"
#include "cuda/probe.h"

namespace py = pybind11;

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "Native CUDA kernels of biasgen.";
  m.def(
      "probe",
      []() -> py::object {
        std::string why;
        {
          py::gil_scoped_release release;  // starting the driver takes seconds
          why = biasgen::probe();
        }
        return why.empty() ? py::object(py::none()) : py::object(py::str(why));
      },
      "None, or a sentence that says why this build cannot use a GPU here. Never raises.");
  biasgen::bind_cuda_trees(m);
}
