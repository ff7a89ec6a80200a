// Binds the nearest-row kernels: checks arrays, picks the instruction set, releases the GIL.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/bind.h"
#include "cpu/fp_state.h"
#include "cpu/isa.h"
#include "cpu/knn.h"

namespace py = pybind11;

namespace biasgen {
namespace {

using Bytes = py::array_t<uint8_t>;
using Int64 = py::array_t<int64_t>;

struct Kernels {
  decltype(&baseline::pack_query) pack_query;
  decltype(&baseline::pack_reference) pack_reference;
  decltype(&baseline::knn) knn;
  decltype(&baseline::rows_within) rows_within;
};

Kernels kernels(const std::string& isa) {
  switch (parse_isa(isa)) {
#ifdef BIASGEN_X86
    case Isa::avx512:
      return {avx512::pack_query, avx512::pack_reference, avx512::knn, avx512::rows_within};
    case Isa::avx2:
      return {avx2::pack_query, avx2::pack_reference, avx2::knn, avx2::rows_within};
#endif
    default:
      return {baseline::pack_query, baseline::pack_reference, baseline::knn, baseline::rows_within};
  }
}

Distance parse_distance(const std::string& name) {
  if (name == "hamming") return Distance::hamming;
  if (name == "sqeuclidean") return Distance::sqeuclidean;
  throw std::invalid_argument("distance: no native kernel for '" + name + "'");
}

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

bool contiguous(const py::array& array) { return (array.flags() & py::array::c_style) != 0; }

void check_rows(const Bytes& rows, Distance distance, int64_t bits) {
  require(rows.ndim() == 2 && contiguous(rows) && rows.shape(0) > 0 && rows.shape(1) > 0,
          "rows: want a contiguous, non-empty (N, features) uint8 array");
  require(distance == Distance::sqeuclidean ? bits == 8 : bits >= 1 && bits <= 8,
          "bits: want 1..8 for hamming, 8 for sqeuclidean");
}

void check_vector(const Int64& array, int64_t size, const char* what) {
  require(array.ndim() == 1 && contiguous(array) && array.shape(0) == size, what);
}

int64_t packed_reference_bytes(Distance distance, int64_t M, int64_t features, int64_t bits) {
  const int64_t width = panel_rows(distance, features);
  return (M + width - 1) / width * width * packed_row_bytes(distance, features, bits, false);
}

Bytes call_pack_reference(const std::string& isa, const std::string& distance_name, const Bytes& rows, int64_t bits) {
  const Distance distance = parse_distance(distance_name);
  const Kernels kernel = kernels(isa);
  check_rows(rows, distance, bits);
  const int64_t M = rows.shape(0), features = rows.shape(1);
  Bytes packed(packed_reference_bytes(distance, M, features, bits));
  uint8_t* to = packed.mutable_data();
  const uint8_t* from = rows.data();
  const int64_t size = packed.size();
  {
    py::gil_scoped_release release;
    std::fill_n(to, size, uint8_t{0});
    kernel.pack_reference(distance, from, M, features, bits, to);
  }
  return packed;
}

// The query packed, and what the kernels want to know about both sides.
struct Search {
  Kernels kernel;
  KnnRows rows;
  const uint8_t* raw;
  std::vector<uint64_t> packed;

  Search(const std::string& isa, const std::string& distance_name, const Bytes& query, const Bytes& reference,
         int64_t M, int64_t bits)
      : kernel(kernels(isa)) {
    const Distance distance = parse_distance(distance_name);
    check_rows(query, distance, bits);
    const int64_t N = query.shape(0), features = query.shape(1);
    require(reference.ndim() == 1 && contiguous(reference) && M > 0 &&
                reference.size() == packed_reference_bytes(distance, M, features, bits),
            "reference: not what pack_reference makes of M rows of the query's width");
    packed.resize((N * packed_row_bytes(distance, features, bits, true) + 7) / 8);
    raw = query.data();
    rows = {distance, packed.data(), reference.data(), N, M, features, bits};
  }

  void pack() { kernel.pack_query(rows.distance, raw, rows.N, rows.features, rows.bits, packed.data()); }
};

void call_knn(const std::string& isa, const std::string& distance, const Bytes& query, const Bytes& reference,
              const Int64& multiplicity, int64_t bits, Int64& distances, Int64& rows, Int64& tie_rows,
              Int64& tie_counts) {
  require(multiplicity.ndim() == 1 && contiguous(multiplicity), "multiplicity: want a contiguous (M,) int64 array");
  Search search(isa, distance, query, reference, multiplicity.shape(0), bits);
  const int64_t N = search.rows.N;
  require(distances.ndim() == 2 && contiguous(distances) && distances.shape(0) == N && distances.shape(1) >= 1 &&
              distances.shape(1) <= search.rows.M,
          "distances: want a contiguous (N, k) int64 array, 1 <= k <= M");
  const int64_t k = distances.shape(1);
  require(rows.ndim() == 2 && contiguous(rows) && rows.shape(0) == N && rows.shape(1) == k,
          "rows: want a contiguous (N, k) int64 array");
  check_vector(tie_rows, N, "tie_rows: want a contiguous (N,) int64 array");
  check_vector(tie_counts, N, "tie_counts: want a contiguous (N,) int64 array");
  const KnnNearest nearest{k,
                           multiplicity.data(),
                           distances.mutable_data(),
                           rows.mutable_data(),
                           tie_rows.mutable_data(),
                           tie_counts.mutable_data()};
  py::gil_scoped_release release;
  const DefaultFpState fp_state;
  search.pack();
  search.kernel.knn(search.rows, nearest);
}

void call_rows_within(const std::string& isa, const std::string& distance, const Bytes& query, const Bytes& reference,
                      int64_t M, int64_t bits, const Int64& radius, const Int64& offsets, Int64& rows) {
  Search search(isa, distance, query, reference, M, bits);
  const int64_t N = search.rows.N;
  check_vector(radius, N, "radius: want a contiguous (N,) int64 array");
  check_vector(offsets, N + 1, "offsets: want a contiguous (N + 1,) int64 array");
  const int64_t* bounds = offsets.data();
  require(bounds[0] >= 0 && std::is_sorted(bounds, bounds + N + 1), "offsets: want ascending numbers from 0");
  require(rows.ndim() == 1 && contiguous(rows) && rows.shape(0) >= bounds[N],
          "rows: want a contiguous int64 array of offsets[N]");
  std::vector<int64_t> cursor(N);
  const KnnWithin within{radius.data(), bounds, cursor.data(), rows.mutable_data()};
  py::gil_scoped_release release;
  const DefaultFpState fp_state;
  search.pack();
  search.kernel.rows_within(search.rows, within);
  require(std::equal(cursor.begin(), cursor.end(), bounds + 1),
          "offsets: do not match the number of rows within the radius");
}

}  // namespace

void bind_knn(py::module_& m) {
  m.def("pack_reference", &call_pack_reference, py::arg("isa"), py::arg("distance"), py::arg("rows").noconvert(),
        py::arg("bits"),
        "(M, features) uint8 rows -> packed bytes, the same for every isa; layouts in csrc/cpu/knn.h.");
  m.def("knn", &call_knn, py::arg("isa"), py::arg("distance"), py::arg("query").noconvert(),
        py::arg("reference").noconvert(), py::arg("multiplicity").noconvert(), py::arg("bits"),
        py::arg("distances").noconvert(), py::arg("rows").noconvert(), py::arg("tie_rows").noconvert(),
        py::arg("tie_counts").noconvert(),
        "Fills distances (N, k), rows (N, k), tie_rows (N,), tie_counts (N,): the k nearest packed rows by (distance, "
        "row).");
  m.def("rows_within", &call_rows_within, py::arg("isa"), py::arg("distance"), py::arg("query").noconvert(),
        py::arg("reference").noconvert(), py::arg("M"), py::arg("bits"), py::arg("radius").noconvert(),
        py::arg("offsets").noconvert(), py::arg("rows").noconvert(),
        "Fills rows[offsets[n]:offsets[n + 1]]: the packed rows at distance <= radius[n], ascending.");
}

}  // namespace biasgen
