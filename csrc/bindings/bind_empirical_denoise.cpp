// Binds the kernels of the empirical denoiser: checks arrays, picks the instruction set, releases the GIL.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "bindings/bind.h"
#include "bindings/checks.h"
#include "cpu/empirical_denoise.h"
#include "cpu/fp_state.h"
#include "cpu/isa.h"

namespace biasgen {
namespace {

struct DenoiseKernels {
  decltype(&baseline::denoise_squares) squares;
  decltype(&baseline::denoise_search) search;
  decltype(&baseline::denoise_listed) listed;
  decltype(&baseline::denoise_dense) dense;
  decltype(&baseline::denoise_tokens) tokens;
};

DenoiseKernels kernels(const std::string& isa) {
  switch (parse_isa(isa)) {
#ifdef BIASGEN_X86
    case Isa::avx512:
      return {avx512::denoise_squares, avx512::denoise_search, avx512::denoise_listed, avx512::denoise_dense,
              avx512::denoise_tokens};
    case Isa::avx2:
      return {avx2::denoise_squares, avx2::denoise_search, avx2::denoise_listed, avx2::denoise_dense,
              avx2::denoise_tokens};
#endif
    default:
      return {baseline::denoise_squares, baseline::denoise_search, baseline::denoise_listed, baseline::denoise_dense,
              baseline::denoise_tokens};
  }
}

bool is_float64(const py::array& rows) {
  const bool float64 = py::isinstance<py::array_t<double>>(rows);
  require(float64 || py::isinstance<py::array_t<float>>(rows), "rows: want float32 or float64");
  return float64;
}

DenoiseRows check_reference(const py::array& rows, const Doubles& center) {
  check_rows(rows, "rows: want a contiguous, non-empty (M, D) array");
  check_vector(center, rows.shape(1), "center: want a contiguous (D,) float64 array");
  return {is_float64(rows), rows.data(), rows.shape(0), rows.shape(1), center.data(), nullptr, nullptr};
}

DenoiseRows check_reference(const py::array& rows, const Doubles& center, const Doubles& squares,
                            const Doubles& log_p) {
  DenoiseRows reference = check_reference(rows, center);
  check_vector(squares, reference.M, "squares: want a contiguous (M,) float64 array");
  check_vector(log_p, reference.M, "log_p: want a contiguous (M,) float64 array");
  reference.squares = squares.data();
  reference.log_p = log_p.data();
  return reference;
}

DenoiseQueries check_queries(const Doubles& x, const Doubles& scale, const Doubles& sigma, int64_t D) {
  check_rows(x, "x: want a contiguous, non-empty (N, D) float64 array");
  require(x.shape(1) == D, "x: want rows of the width of the reference");
  check_vector(scale, x.shape(0), "scale: want a contiguous (N,) float64 array");
  check_vector(sigma, x.shape(0), "sigma: want a contiguous (N,) float64 array");
  return {x.shape(0), x.data(), scale.data(), sigma.data()};
}

DenoiseOut check_out(Doubles& x0_hat, Doubles& log_density, Doubles& effective, const DenoiseQueries& queries,
                     int64_t D) {
  check_rows(x0_hat, "x0_hat: want a contiguous (N, D) float64 array");
  require(x0_hat.shape(0) == queries.N && x0_hat.shape(1) == D, "x0_hat: want the shape of x");
  check_vector(log_density, queries.N, "log_density: want a contiguous (N,) float64 array");
  check_vector(effective, queries.N, "effective: want a contiguous (N,) float64 array");
  return {x0_hat.mutable_data(), log_density.mutable_data(), effective.mutable_data()};
}

Doubles call_squares(const std::string& isa, const py::array& rows, const Doubles& center) {
  const DenoiseKernels kernel = kernels(isa);
  const DenoiseRows reference = check_reference(rows, center);
  Doubles squares(reference.M);
  double* const out = squares.mutable_data();
  {
    py::gil_scoped_release release;
    const DefaultFpState fp_state;
    kernel.squares(reference, out);
  }
  return squares;
}

void call_search(const std::string& isa, const Doubles& center, const Doubles& x, const Doubles& scale,
                 py::array& query, Doubles& rests, Doubles& squares) {
  const DenoiseKernels kernel = kernels(isa);
  const DenoiseQueries queries = check_queries(x, scale, scale, center.size());
  check_vector(center, x.shape(1), "center: want a contiguous (D,) float64 array");
  check_rows(query, "query: want a contiguous (N, D) array of the type of the rows");
  require(query.shape(0) == queries.N && query.shape(1) == x.shape(1), "query: want the shape of x");
  check_vector(rests, queries.N, "rests: want a contiguous (N,) float64 array");
  check_vector(squares, queries.N, "squares: want a contiguous (N,) float64 array");
  const DenoiseRows reference{is_float64(query), nullptr, 0, x.shape(1), center.data(), nullptr, nullptr};
  const DenoiseSearch out{query.mutable_data(), rests.mutable_data(), squares.mutable_data()};
  py::gil_scoped_release release;
  const DefaultFpState fp_state;
  kernel.search(reference, queries, out);
}

void call_listed(const std::string& isa, const py::array& rows, const Doubles& center, const Doubles& squares,
                 const Doubles& log_p, const Doubles& x, const Doubles& scale, const Doubles& sigma, const Int64& lists,
                 const Int64& counts, double tau, Doubles& x0_hat, Doubles& log_density, Doubles& effective,
                 Doubles& dropped) {
  const DenoiseKernels kernel = kernels(isa);
  const DenoiseRows reference = check_reference(rows, center, squares, log_p);
  const DenoiseQueries queries = check_queries(x, scale, sigma, reference.D);
  const DenoiseOut out = check_out(x0_hat, log_density, effective, queries, reference.D);
  check_vector(dropped, queries.N, "dropped: want a contiguous (N,) float64 array");
  check_rows(lists, "lists: want a contiguous (N, capacity) int64 array");
  check_vector(counts, queries.N, "counts: want a contiguous (N,) int64 array");
  const int64_t capacity = lists.shape(1);
  require(lists.shape(0) == queries.N, "lists: want one a query");
  int64_t longest = 0;
  for (int64_t n = 0; n < queries.N; ++n) {
    const int64_t count = counts.data()[n], *const list = lists.data() + n * capacity;
    require(count >= 1 && count <= capacity, "counts: want 1 .. capacity");
    require(std::all_of(list, list + count, [&](int64_t row) { return row >= 0 && row < reference.M; }),
            "lists: want rows of the reference");
    longest = std::max(longest, count);
  }
  const DenoiseLists listed{capacity, lists.data(), counts.data(), tau};
  std::vector<double> scratch(reference.D + longest);
  double* const bounds = dropped.mutable_data();
  py::gil_scoped_release release;
  const DefaultFpState fp_state;
  kernel.listed(reference, queries, listed, out, bounds, scratch.data());
}

void call_dense(const std::string& isa, const py::array& rows, const Doubles& center, const Doubles& squares,
                const Doubles& log_p, const Doubles& x, const Doubles& scale, const Doubles& sigma, Doubles& x0_hat,
                Doubles& log_density, Doubles& effective) {
  const DenoiseKernels kernel = kernels(isa);
  const DenoiseRows reference = check_reference(rows, center, squares, log_p);
  const DenoiseQueries queries = check_queries(x, scale, sigma, reference.D);
  const DenoiseOut out = check_out(x0_hat, log_density, effective, queries, reference.D);
  const Scratch scratch = make_scratch(dense_scratch_bytes(queries.N, reference.D));
  py::gil_scoped_release release;
  const DefaultFpState fp_state;
  kernel.dense(reference, queries, out, scratch.get());
}

template <class T>
bool below(const T* tokens, int64_t count, int64_t Q) {
  T largest = 0;
  for (int64_t k = 0; k < count; ++k) largest = std::max(largest, tokens[k]);
  return largest < Q;
}

DenoiseTokens check_tokens(const py::array& rows, int64_t Q, const Doubles& log_p) {
  check_rows(rows, "rows: want a contiguous, non-empty (M, L) array");
  const bool bytes = py::isinstance<py::array_t<uint8_t>>(rows);
  require(bytes || py::isinstance<py::array_t<int16_t>>(rows), "rows: want uint8, or the int16 of uint16");
  require(bytes ? below(static_cast<const uint8_t*>(rows.data()), rows.size(), Q)
                : below(static_cast<const uint16_t*>(rows.data()), rows.size(), Q),
          "rows: want tokens below Q");
  check_vector(log_p, rows.shape(0), "log_p: want a contiguous (M,) float64 array");
  return {bytes ? 1 : 2, rows.data(), rows.shape(0), rows.shape(1), Q, log_p.data()};
}

void call_tokens(const std::string& isa, const py::array& rows, const Doubles& log_p, const Doubles& x,
                 const Doubles& scale, const Doubles& sigma, Doubles& x0_hat, Doubles& log_density,
                 Doubles& effective) {
  const DenoiseKernels kernel = kernels(isa);
  check_rows(x, "x: want a contiguous, non-empty (N, L Q) float64 array");
  require(rows.ndim() == 2 && x.shape(1) % rows.shape(1) == 0, "x: want Q numbers a token");
  const DenoiseTokens reference = check_tokens(rows, x.shape(1) / rows.shape(1), log_p);
  const DenoiseQueries queries = check_queries(x, scale, sigma, x.shape(1));
  const DenoiseOut out = check_out(x0_hat, log_density, effective, queries, x.shape(1));
  const Scratch scratch = make_scratch(tokens_scratch_bytes(reference.L, reference.Q));
  py::gil_scoped_release release;
  const DefaultFpState fp_state;
  kernel.tokens(reference, queries, out, reinterpret_cast<double*>(scratch.get()));
}

}  // namespace

void bind_empirical_denoise(py::module_& m) {
  m.def("denoise_squares", &call_squares, py::arg("isa"), py::arg("rows").noconvert(), py::arg("center").noconvert(),
        "(M,) float64 |row - center|^2 of (M, D) float rows.");
  m.def(
      "denoise_search", &call_search, py::arg("isa"), py::arg("center").noconvert(), py::arg("x").noconvert(),
      py::arg("scale").noconvert(), py::arg("query").noconvert(), py::arg("rests").noconvert(),
      py::arg("squares").noconvert(),
      "Fills query (N, D) with x / scale in its own element type, rests (N,) with bounds of what that rounds, squares "
      "(N,) with |x - scale center|^2. Not finite where the type cannot hold it.");
  m.def("denoise_listed", &call_listed, py::arg("isa"), py::arg("rows").noconvert(), py::arg("center").noconvert(),
        py::arg("squares").noconvert(), py::arg("log_p").noconvert(), py::arg("x").noconvert(),
        py::arg("scale").noconvert(), py::arg("sigma").noconvert(), py::arg("lists").noconvert(),
        py::arg("counts").noconvert(), py::arg("tau"), py::arg("x0_hat").noconvert(),
        py::arg("log_density").noconvert(), py::arg("effective").noconvert(), py::arg("dropped").noconvert(),
        "The empirical denoiser over the rows lists[n, :counts[n]]. dropped: the probability of the others at most, "
        "each of which is below exp(-tau) of the nearest's density.");
  m.def("denoise_dense", &call_dense, py::arg("isa"), py::arg("rows").noconvert(), py::arg("center").noconvert(),
        py::arg("squares").noconvert(), py::arg("log_p").noconvert(), py::arg("x").noconvert(),
        py::arg("scale").noconvert(), py::arg("sigma").noconvert(), py::arg("x0_hat").noconvert(),
        py::arg("log_density").noconvert(), py::arg("effective").noconvert(),
        "The empirical denoiser over all rows: right where 2^-53 (|x'| + scale |y'|)^2 / sigma^2 is small.");
  m.def("denoise_tokens", &call_tokens, py::arg("isa"), py::arg("rows").noconvert(), py::arg("log_p").noconvert(),
        py::arg("x").noconvert(), py::arg("scale").noconvert(), py::arg("sigma").noconvert(),
        py::arg("x0_hat").noconvert(), py::arg("log_density").noconvert(), py::arg("effective").noconvert(),
        "The empirical denoiser over all rows, one-hot, of tokens (M, L) uint8 or int16 (the bits of uint16); x (N, L "
        "Q).");
}

}  // namespace biasgen
