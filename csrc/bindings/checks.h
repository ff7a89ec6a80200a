// What the bindings of searches share: checks of arrays, which raise ValueError, and aligned scratch.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "cpu/knn.h"

namespace biasgen {

namespace py = pybind11;
using Bytes = py::array_t<uint8_t>;
using Int64 = py::array_t<int64_t>;
using Floats = py::array_t<float>;
using Doubles = py::array_t<double>;

inline void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

// The place of a name in a list, as the enum that has the same order.
template <class Enum, std::size_t count>
Enum parse(const std::string& name, const char* const (&names)[count]) {
  std::string known;
  for (std::size_t i = 0; i < count; ++i) {
    if (name == names[i]) return static_cast<Enum>(i);
    known += std::string(i ? ", '" : "'") + names[i] + "'";
  }
  throw std::invalid_argument("distance: want one of " + known + " here, got '" + name + "'");
}

inline bool contiguous(const py::array& array) { return (array.flags() & py::array::c_style) != 0; }

inline void check_rows(const py::array& rows, const char* what) {
  require(rows.ndim() == 2 && contiguous(rows) && rows.shape(0) > 0 && rows.shape(1) > 0, what);
}

template <class T>
void check_vector(const py::array_t<T>& array, int64_t size, const char* what) {
  require(array.ndim() == 1 && contiguous(array) && array.shape(0) == size, what);
}

inline void check_pairs(const Int64& rows, int64_t size, const char* what) {
  require(rows.ndim() == 1 && contiguous(rows) &&
              std::all_of(rows.data(), rows.data() + rows.size(), [=](int64_t row) { return row >= 0 && row < size; }),
          what);
}

inline void check_offsets(const Int64& offsets, int64_t N, const Int64& rows) {
  check_vector(offsets, N + 1, "offsets: want a contiguous (N + 1,) int64 array");
  const int64_t* bounds = offsets.data();
  require(bounds[0] >= 0 && std::is_sorted(bounds, bounds + N + 1), "offsets: want ascending numbers from 0");
  require(rows.ndim() == 1 && contiguous(rows) && rows.shape(0) >= bounds[N],
          "rows: want a contiguous int64 array of offsets[N]");
}

// Of the query, and of the reference too.
inline Element element_of(const py::array& query, const py::array& reference, bool bytes) {
  if (py::isinstance<Doubles>(query) && py::isinstance<Doubles>(reference)) return Element::float64;
  if (py::isinstance<Floats>(query) && py::isinstance<Floats>(reference)) return Element::float32;
  const bool of_bytes = bytes && py::isinstance<Bytes>(query);
  require(of_bytes || py::isinstance<Doubles>(query) || py::isinstance<Floats>(query),
          bytes ? "query: want uint8, float32 or float64" : "query: want float32 or float64");
  require(of_bytes && py::isinstance<Bytes>(reference), "reference: want the element type of the query");
  return Element::uint8;
}

struct alignas(64) Line {
  uint8_t bytes[64];
};

using Scratch = std::unique_ptr<Line[]>;

inline Scratch make_scratch(int64_t bytes) { return Scratch(new Line[bytes / sizeof(Line) + 1]); }

}  // namespace biasgen
