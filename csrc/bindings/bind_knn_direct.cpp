// Binds the search pair by pair: checks arrays, picks the instruction set, releases the GIL.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "bindings/bind.h"
#include "bindings/checks.h"
#include "cpu/fp_state.h"
#include "cpu/isa.h"
#include "cpu/knn.h"

namespace biasgen {
namespace {

struct Kernels {
  decltype(&baseline::direct_knn) knn;
  decltype(&baseline::direct_within) within;
  decltype(&baseline::direct_floats_knn) floats_knn;
  decltype(&baseline::direct_floats_within) floats_within;
};

Kernels kernels(const std::string& isa) {
  switch (parse_isa(isa)) {
#ifdef BIASGEN_X86
    case Isa::avx512:
      return {avx512::direct_knn, avx512::direct_within, avx512::direct_floats_knn, avx512::direct_floats_within};
    case Isa::avx2:
      return {avx2::direct_knn, avx2::direct_within, avx2::direct_floats_knn, avx2::direct_floats_within};
#endif
    default:
      return {baseline::direct_knn, baseline::direct_within, baseline::direct_floats_knn,
              baseline::direct_floats_within};
  }
}

// The checked operands of a search, and its scratch.
struct DirectSearch {
  Kernels kernel;
  DirectRows rows;
  Scratch scratch;

  DirectSearch(const std::string& isa, const std::string& distance_name, const py::array& query,
               const py::array& reference)
      : kernel(kernels(isa)) {
    const auto distance = parse<DirectDistance>(distance_name, kDirectDistances);
    const Element element = element_of(query, reference, true);
    check_rows(query, "query: want a contiguous, non-empty (N, features) array");
    check_rows(reference, "reference: want a contiguous, non-empty (M, features) array");
    const int64_t N = query.shape(0), features = query.shape(1);
    require(reference.shape(1) == features, "reference: want rows of the query's width");
    scratch = make_scratch(direct_scratch_bytes(N));
    rows = {distance, element, query.data(), reference.data(), N, reference.shape(0), features, scratch.get()};
  }

  bool integers() const { return rows.element == Element::uint8; }
};

// The values and radii of a search: int64 between bytes, else float64.
template <class T>
py::array_t<T> of_type(const py::array& array, const char* what) {
  require(py::isinstance<py::array_t<T>>(array), what);
  return py::reinterpret_borrow<py::array_t<T>>(array);
}

// KnnNearest or FloatNearest.
template <class Nearest, class T>
Nearest nearest_of(const DirectRows& rows, const Int64& multiplicity, const py::array& values, Int64& found,
                   Int64& tie_rows, Int64& tie_counts) {
  const char* what = "values: want a contiguous (N, k) array, int64 for bytes, else float64, 1 <= k <= M";
  auto to = of_type<T>(values, what);
  require(to.ndim() == 2 && contiguous(to) && to.shape(0) == rows.N && to.shape(1) >= 1 && to.shape(1) <= rows.M, what);
  const int64_t k = to.shape(1);
  check_vector(multiplicity, rows.M, "multiplicity: want a contiguous (M,) int64 array");
  require(found.ndim() == 2 && contiguous(found) && found.shape(0) == rows.N && found.shape(1) == k,
          "rows: want a contiguous (N, k) int64 array");
  check_vector(tie_rows, rows.N, "tie_rows: want a contiguous (N,) int64 array");
  check_vector(tie_counts, rows.N, "tie_counts: want a contiguous (N,) int64 array");
  return {k,
          multiplicity.data(),
          to.mutable_data(),
          found.mutable_data(),
          tie_rows.mutable_data(),
          tie_counts.mutable_data()};
}

void call_knn(const std::string& isa, const std::string& distance, const py::array& query, const py::array& reference,
              const Int64& multiplicity, py::array& values, Int64& rows, Int64& tie_rows, Int64& tie_counts) {
  const DirectSearch search(isa, distance, query, reference);
  const auto run = [&](auto* kernel, const auto& nearest) {
    py::gil_scoped_release release;
    const DefaultFpState fp_state;
    kernel(search.rows, nearest);
  };
  if (search.integers())
    run(search.kernel.knn,
        nearest_of<KnnNearest, int64_t>(search.rows, multiplicity, values, rows, tie_rows, tie_counts));
  else
    run(search.kernel.floats_knn,
        nearest_of<FloatNearest, double>(search.rows, multiplicity, values, rows, tie_rows, tie_counts));
}

void call_within(const std::string& isa, const std::string& distance, const py::array& query,
                 const py::array& reference, const py::array& radius, const Int64& offsets, Int64& rows) {
  const DirectSearch search(isa, distance, query, reference);
  const int64_t N = search.rows.N;
  check_offsets(offsets, N, rows);
  std::vector<int64_t> cursor(N);
  const char* what = "radius: want a contiguous (N,) array, int64 for bytes, else float64";
  const auto run = [&](auto* kernel, const auto& within) {
    py::gil_scoped_release release;
    const DefaultFpState fp_state;
    kernel(search.rows, within);
  };
  if (search.integers()) {
    const auto limits = of_type<int64_t>(radius, what);
    check_vector(limits, N, what);
    run(search.kernel.within, KnnWithin{limits.data(), offsets.data(), cursor.data(), rows.mutable_data()});
  } else {
    const auto limits = of_type<double>(radius, what);
    check_vector(limits, N, what);
    run(search.kernel.floats_within, FloatWithin{limits.data(), offsets.data(), cursor.data(), rows.mutable_data()});
  }
  require(std::equal(cursor.begin(), cursor.end(), offsets.data() + 1),
          "offsets: do not match the number of rows within the radius");
}

}  // namespace

void bind_knn_direct(py::module_& m) {
  m.def("knn_direct", &call_knn, py::arg("isa"), py::arg("distance"), py::arg("query").noconvert(),
        py::arg("reference").noconvert(), py::arg("multiplicity").noconvert(), py::arg("values").noconvert(),
        py::arg("rows").noconvert(), py::arg("tie_rows").noconvert(), py::arg("tie_counts").noconvert(),
        "knn of uint8, float32 or float64 rows, pair by pair: the same, but values (N, k) float64 between floats.");
  m.def("direct_within", &call_within, py::arg("isa"), py::arg("distance"), py::arg("query").noconvert(),
        py::arg("reference").noconvert(), py::arg("radius").noconvert(), py::arg("offsets").noconvert(),
        py::arg("rows").noconvert(), "rows_within of the same rows; radius (N,) int64 for bytes, else float64.");
}

}  // namespace biasgen
