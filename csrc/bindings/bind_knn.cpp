// Binds the nearest-row kernels: checks arrays, picks the instruction set, releases the GIL.
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
  decltype(&baseline::pack_reference) pack_reference;
  decltype(&baseline::knn) knn;
  decltype(&baseline::rows_within) rows_within;
};

Kernels kernels(const std::string& isa) {
  switch (parse_isa(isa)) {
#ifdef BIASGEN_X86
    case Isa::avx512:
      return {avx512::pack_reference, avx512::knn, avx512::rows_within};
    case Isa::avx2:
      return {avx2::pack_reference, avx2::knn, avx2::rows_within};
#endif
    default:
      return {baseline::pack_reference, baseline::knn, baseline::rows_within};
  }
}

void check_bits(int64_t bits) { require(known_bits(bits), "bits: want 1..8, 12 or 16"); }

// Of a contiguous, non-empty (rows, features) array of symbols.
Element symbols_of(const py::array& rows, const char* what) {
  const bool narrow = py::isinstance<Bytes>(rows);
  require(narrow || py::isinstance<py::array_t<uint16_t>>(rows), what);
  check_rows(rows, what);
  return narrow ? Element::uint8 : Element::uint16;
}

int64_t packed_reference_bytes(int64_t M, int64_t features, int64_t bits) {
  const int64_t width = plane_rows(features);
  return (M + width - 1) / width * width * planes_bytes(features, bits);
}

Bytes call_pack_reference(const std::string& isa, const py::array& rows, int64_t bits) {
  const Kernels kernel = kernels(isa);
  const Element element = symbols_of(rows, "rows: want a contiguous, non-empty (M, features) uint8 or uint16 array");
  check_bits(bits);
  const int64_t M = rows.shape(0), features = rows.shape(1);
  Bytes packed(packed_reference_bytes(M, features, bits));
  uint8_t* to = packed.mutable_data();
  const void* from = rows.data();
  const int64_t size = packed.size();
  {
    py::gil_scoped_release release;
    std::fill_n(to, size, uint8_t{0});
    kernel.pack_reference(from, element, M, features, bits, to);
  }
  return packed;
}

// What the kernels want to know about both sides, and their scratch.
struct Search {
  Kernels kernel;
  KnnRows rows;
  Scratch scratch;

  Search(const std::string& isa, const std::string& distance_name, const py::array& query, const Bytes& reference,
         int64_t M, int64_t bits)
      : kernel(kernels(isa)) {
    const auto distance = parse<IntegerDistance>(distance_name, kIntegerDistances);
    const Element element =
        symbols_of(query, "query: want a contiguous, non-empty (N, features) uint8 array, hamming also uint16");
    const int64_t N = query.shape(0), features = query.shape(1);
    if (distance == IntegerDistance::hamming) {
      check_bits(bits);
      require(reference.ndim() == 1 && contiguous(reference) && M > 0 &&
                  reference.size() == packed_reference_bytes(M, features, bits),
              "reference: not what pack_reference makes of M rows of the query's width");
    } else {
      require(element == Element::uint8, "query: want uint8, sqeuclidean has no uint16");
      check_rows(reference, "reference: want a contiguous, non-empty (M, features) uint8 array");
      require(reference.shape(0) == M && reference.shape(1) == features, "reference: want M rows of the query's width");
    }
    scratch = make_scratch(scratch_bytes(distance, N, features, bits));
    rows = {distance, element, query.data(), reference.data(), N, M, features, bits, scratch.get()};
  }
};

void call_knn(const std::string& isa, const std::string& distance, const py::array& query, const Bytes& reference,
              int64_t M, int64_t bits, const Int64& multiplicity, Int64& distances, Int64& rows, Int64& tie_rows,
              Int64& tie_counts) {
  Search search(isa, distance, query, reference, M, bits);
  check_vector(multiplicity, M, "multiplicity: want a contiguous (M,) int64 array");
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
  search.kernel.knn(search.rows, nearest);
}

void call_rows_within(const std::string& isa, const std::string& distance, const py::array& query,
                      const Bytes& reference, int64_t M, int64_t bits, const Int64& radius, const Int64& offsets,
                      Int64& rows) {
  Search search(isa, distance, query, reference, M, bits);
  const int64_t N = search.rows.N;
  check_vector(radius, N, "radius: want a contiguous (N,) int64 array");
  check_offsets(offsets, N, rows);
  std::vector<int64_t> cursor(N);
  const KnnWithin within{radius.data(), offsets.data(), cursor.data(), rows.mutable_data()};
  py::gil_scoped_release release;
  const DefaultFpState fp_state;
  search.kernel.rows_within(search.rows, within);
  require(std::equal(cursor.begin(), cursor.end(), offsets.data() + 1),
          "offsets: do not match the number of rows within the radius");
}

}  // namespace

void bind_knn(py::module_& m) {
  m.def("pack_reference", &call_pack_reference, py::arg("isa"), py::arg("rows").noconvert(), py::arg("bits"),
        "(M, features) uint8 or uint16 tokens -> their bit planes as bytes, the same for every isa; layout in "
        "csrc/cpu/knn.h.");
  m.def(
      "knn", &call_knn, py::arg("isa"), py::arg("distance"), py::arg("query").noconvert(),
      py::arg("reference").noconvert(), py::arg("M"), py::arg("bits"), py::arg("multiplicity").noconvert(),
      py::arg("distances").noconvert(), py::arg("rows").noconvert(), py::arg("tie_rows").noconvert(),
      py::arg("tie_counts").noconvert(),
      "Fills distances (N, k), rows (N, k), tie_rows (N,), tie_counts (N,): the k nearest reference rows by (distance, "
      "row). reference: what pack_reference made (hamming), or the rows (sqeuclidean).");
  m.def("rows_within", &call_rows_within, py::arg("isa"), py::arg("distance"), py::arg("query").noconvert(),
        py::arg("reference").noconvert(), py::arg("M"), py::arg("bits"), py::arg("radius").noconvert(),
        py::arg("offsets").noconvert(), py::arg("rows").noconvert(),
        "Fills rows[offsets[n]:offsets[n + 1]]: the reference rows at distance <= radius[n], ascending.");
}

}  // namespace biasgen
