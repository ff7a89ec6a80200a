// Binds the searches of float rows and of points at length 1: checks arrays, picks the instruction set, releases the
// GIL.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
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

constexpr int64_t kScaling = sizeof(Scaling) / sizeof(double);

struct Kernels {
  decltype(&baseline::encode) encode;
  decltype(&baseline::knn_floats) knn_floats;
  decltype(&baseline::floats_within) floats_within;
  decltype(&baseline::floats_band) floats_band;
};

Kernels kernels(const std::string& isa) {
  switch (parse_isa(isa)) {
#ifdef BIASGEN_X86
    case Isa::avx512:
      return {avx512::encode, avx512::knn_floats, avx512::floats_within, avx512::floats_band};
    case Isa::avx2:
      return {avx2::encode, avx2::knn_floats, avx2::floats_within, avx2::floats_band};
#endif
    default:
      return {baseline::encode, baseline::knn_floats, baseline::floats_within, baseline::floats_band};
  }
}

void check_unit(double unit) { require(unit >= 1e-100 && unit <= 1e160, "unit: want a number in 1e-100..1e160"); }

py::tuple call_encode(const std::string& isa, const std::string& distance_name, const py::array& rows,
                      const Doubles& center, double unit) {
  const Kernels kernel = kernels(isa);
  const auto distance = parse<FloatDistance>(distance_name, kFloatDistances);
  const bool scaled = distance != FloatDistance::sqeuclidean;
  const Element element = element_of(rows, rows, scaled);
  check_rows(rows, "rows: want a contiguous, non-empty (M, features) array");
  const int64_t M = rows.shape(0), features = rows.shape(1);
  check_vector(center, features, "center: want a contiguous (features,) float64 array");
  check_unit(unit);
  Bytes codes({M, features});
  Doubles residuals(M), scalings({scaled ? M : 0, kScaling});
  const FloatCodes to{distance,
                      element,
                      rows.data(),
                      M,
                      features,
                      center.data(),
                      unit,
                      codes.mutable_data(),
                      residuals.mutable_data(),
                      reinterpret_cast<Scaling*>(scalings.mutable_data())};
  {
    py::gil_scoped_release release;
    const DefaultFpState fp_state;
    kernel.encode(to);
  }
  return py::make_tuple(codes, residuals, scalings);
}

// The checked operands of a search of floats, and its scratch.
struct FloatSearch {
  Kernels kernel;
  FloatRows rows;
  std::vector<uint8_t> codes;
  std::vector<double> residuals;
  std::vector<Scaling> scalings;
  std::vector<int64_t> limits;
  Scratch scratch;

  FloatSearch(const std::string& isa, const std::string& distance_name, const py::array& query,
              const py::array& reference, const Doubles& center, double unit, const Bytes& reference_codes,
              const Doubles& reference_residuals, const Doubles& reference_scalings, double usual_residual,
              const Int64& outlying)
      : kernel(kernels(isa)) {
    const auto distance = parse<FloatDistance>(distance_name, kFloatDistances);
    const bool scaled = distance != FloatDistance::sqeuclidean;
    const Element element = element_of(query, reference, scaled);
    check_rows(query, "query: want a contiguous, non-empty (N, features) array");
    check_rows(reference, "reference: want a contiguous, non-empty (M, features) array");
    const int64_t N = query.shape(0), M = reference.shape(0), features = query.shape(1);
    require(reference.shape(1) == features, "reference: want rows of the query's width");
    check_vector(center, features, "center: want a contiguous (features,) float64 array");
    check_unit(unit);
    check_rows(reference_codes, "codes: want a contiguous (M, features) uint8 array");
    require(reference_codes.shape(0) == M && reference_codes.shape(1) == features,
            "codes: want those of the reference");
    check_vector(reference_residuals, M, "residuals: want a contiguous (M,) float64 array");
    require(reference_scalings.ndim() == 2 && contiguous(reference_scalings) &&
                reference_scalings.shape(0) == (scaled ? M : 0) && reference_scalings.shape(1) == kScaling,
            "scalings: want those of the reference");
    check_pairs(outlying, M, "outlying: want a contiguous int64 array of reference rows");
    codes.resize(N * features);
    residuals.resize(N);
    scalings.resize(scaled ? N : 0);
    limits.resize(N);
    scratch = make_scratch(scratch_bytes(IntegerDistance::sqeuclidean, N, features, 8));
    rows = {distance,
            element,
            query.data(),
            reference.data(),
            N,
            M,
            features,
            center.data(),
            unit,
            reference_codes.data(),
            reference_residuals.data(),
            reinterpret_cast<const Scaling*>(reference_scalings.data()),
            usual_residual,
            outlying.data(),
            outlying.size(),
            codes.data(),
            residuals.data(),
            scalings.data(),
            limits.data(),
            scratch.get()};
  }
};

void call_knn_floats(const std::string& isa, const std::string& distance, const py::array& query,
                     const py::array& reference, const Doubles& center, double unit, const Bytes& codes,
                     const Doubles& residuals, const Doubles& scalings, double usual_residual, const Int64& outlying,
                     const Int64& multiplicity, Doubles& values, Int64& rows, Int64& tie_rows, Int64& tie_counts) {
  FloatSearch search(isa, distance, query, reference, center, unit, codes, residuals, scalings, usual_residual,
                     outlying);
  const int64_t N = search.rows.N, M = search.rows.M;
  check_vector(multiplicity, M, "multiplicity: want a contiguous (M,) int64 array");
  require(
      values.ndim() == 2 && contiguous(values) && values.shape(0) == N && values.shape(1) >= 1 && values.shape(1) <= M,
      "values: want a contiguous (N, k) float64 array, 1 <= k <= M");
  const int64_t k = values.shape(1);
  require(rows.ndim() == 2 && contiguous(rows) && rows.shape(0) == N && rows.shape(1) == k,
          "rows: want a contiguous (N, k) int64 array");
  check_vector(tie_rows, N, "tie_rows: want a contiguous (N,) int64 array");
  check_vector(tie_counts, N, "tie_counts: want a contiguous (N,) int64 array");
  const FloatNearest nearest{k,
                             multiplicity.data(),
                             values.mutable_data(),
                             rows.mutable_data(),
                             tie_rows.mutable_data(),
                             tie_counts.mutable_data()};
  py::gil_scoped_release release;
  const DefaultFpState fp_state;
  search.kernel.knn_floats(search.rows, nearest);
}

void call_floats_within(const std::string& isa, const std::string& distance, const py::array& query,
                        const py::array& reference, const Doubles& center, double unit, const Bytes& codes,
                        const Doubles& residuals, const Doubles& scalings, double usual_residual, const Int64& outlying,
                        const Doubles& radius, const Int64& offsets, Int64& rows) {
  FloatSearch search(isa, distance, query, reference, center, unit, codes, residuals, scalings, usual_residual,
                     outlying);
  const int64_t N = search.rows.N;
  check_vector(radius, N, "radius: want a contiguous (N,) float64 array");
  check_offsets(offsets, N, rows);
  std::vector<int64_t> cursor(N);
  const FloatWithin within{radius.data(), offsets.data(), cursor.data(), rows.mutable_data()};
  py::gil_scoped_release release;
  const DefaultFpState fp_state;
  search.kernel.floats_within(search.rows, within);
  require(std::equal(cursor.begin(), cursor.end(), offsets.data() + 1),
          "offsets: do not match the number of rows within the radius");
}

py::tuple call_floats_band(const std::string& isa, const py::array& query, const py::array& reference,
                           const Doubles& center, double unit, const Bytes& codes, const Doubles& residuals,
                           const Doubles& scalings, double usual_residual, const Int64& outlying, const Doubles& rests,
                           const Doubles& bands, int64_t capacity, int64_t most_tries) {
  FloatSearch search(isa, "sqeuclidean", query, reference, center, unit, codes, residuals, scalings, usual_residual,
                     outlying);
  const int64_t N = search.rows.N;
  check_vector(rests, N, "rests: want a contiguous (N,) float64 array");
  check_vector(bands, N, "bands: want a contiguous (N,) float64 array");
  const auto finite = [](double x) { return x >= 0 && x < INFINITY; };
  require(std::all_of(rests.data(), rests.data() + N, finite) && std::all_of(bands.data(), bands.data() + N, finite),
          "rests, bands: want finite numbers >= 0");
  require(capacity >= 1 && capacity <= search.rows.M, "capacity: want 1 .. M");
  Int64 rows({N, capacity}), counts(N);
  std::vector<double> values(N * capacity), nearest(N), reaches(N);
  std::vector<int64_t> tries(N);
  const FloatBand band{rests.data(),        bands.data(),  capacity,     most_tries,     counts.mutable_data(),
                       rows.mutable_data(), values.data(), tries.data(), nearest.data(), reaches.data()};
  {
    py::gil_scoped_release release;
    const DefaultFpState fp_state;
    search.kernel.floats_band(search.rows, band);
  }
  return py::make_tuple(rows, counts);
}

}  // namespace

void bind_knn_floats(py::module_& m) {
  m.def(
      "encode", &call_encode, py::arg("isa"), py::arg("distance"), py::arg("rows").noconvert(),
      py::arg("center").noconvert(), py::arg("unit"),
      "(M, features) rows -> codes (M, features) uint8, residuals (M,): bounds of what the codes leave out, scalings "
      "(M, 4): "
      "how rows become points of length 1 (cosine, correlation; else none). Floats, or uint8 where there are points.");
  m.def("knn_floats", &call_knn_floats, py::arg("isa"), py::arg("distance"), py::arg("query").noconvert(),
        py::arg("reference").noconvert(), py::arg("center").noconvert(), py::arg("unit"), py::arg("codes").noconvert(),
        py::arg("residuals").noconvert(), py::arg("scalings").noconvert(), py::arg("usual_residual"),
        py::arg("outlying").noconvert(), py::arg("multiplicity").noconvert(), py::arg("values").noconvert(),
        py::arg("rows").noconvert(), py::arg("tie_rows").noconvert(), py::arg("tie_counts").noconvert(),
        "knn by sqeuclidean, cosine or correlation: the same, but values (N, k) float64. outlying: the rows with "
        "residuals "
        "above usual_residual.");
  m.def("floats_within", &call_floats_within, py::arg("isa"), py::arg("distance"), py::arg("query").noconvert(),
        py::arg("reference").noconvert(), py::arg("center").noconvert(), py::arg("unit"), py::arg("codes").noconvert(),
        py::arg("residuals").noconvert(), py::arg("scalings").noconvert(), py::arg("usual_residual"),
        py::arg("outlying").noconvert(), py::arg("radius").noconvert(), py::arg("offsets").noconvert(),
        py::arg("rows").noconvert(),
        "rows_within by sqeuclidean, cosine or correlation: those whose value is <= radius[n].");
  m.def(
      "floats_band", &call_floats_band, py::arg("isa"), py::arg("query").noconvert(), py::arg("reference").noconvert(),
      py::arg("center").noconvert(), py::arg("unit"), py::arg("codes").noconvert(), py::arg("residuals").noconvert(),
      py::arg("scalings").noconvert(), py::arg("usual_residual"), py::arg("outlying").noconvert(),
      py::arg("rests").noconvert(), py::arg("bands").noconvert(), py::arg("capacity"), py::arg("most_tries"),
      "-> rows (N, capacity), counts (N,): all that can be at |z - y|^2 <= min + bands[n] from a z within rests[n] of "
      "the query; -1 where they are too many, or more than most_tries are left open by the codes.");
}

}  // namespace biasgen
