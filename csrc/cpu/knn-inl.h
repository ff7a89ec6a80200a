// Nearest rows: the entry points of one instruction set.
#pragma once
#include <cstdint>

#include "cpu/knn.h"
#include "cpu/knn_band-inl.h"
#include "cpu/knn_floats-inl.h"
#include "cpu/knn_hamming-inl.h"
#include "cpu/knn_sinks-inl.h"
#include "cpu/knn_squares-inl.h"
#include "cpu/row_values-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {

void pack_reference(const uint8_t* rows, int64_t M, int64_t features, int64_t bits, void* packed) {
  pack_planes(rows, M, features, bits, plane_rows(features), packed);
}

void knn(const KnnRows& rows, const KnnNearest& nearest) {
  const NearestSink sink(nearest, rows.N);
  rows.distance == Distance::hamming ? search_planes(rows, sink) : search_squares(rows, sink);
}

void rows_within(const KnnRows& rows, const KnnWithin& within) {
  const WithinSink sink(within, rows.N);
  rows.distance == Distance::hamming ? search_planes(rows, sink) : search_squares(rows, sink);
}

void encode(const FloatCodes& codes) { codes.float64 ? encode_rows<double>(codes) : encode_rows<float>(codes); }

void knn_floats(const FloatRows& rows, const FloatNearest& nearest) {
  const FloatNearestTaker taker(nearest, rows.N);
  rows.float64 ? search_floats<double>(rows, taker) : search_floats<float>(rows, taker);
}

void floats_within(const FloatRows& rows, const FloatWithin& within) {
  const FloatWithinTaker taker(within, rows.N);
  rows.float64 ? search_floats<double>(rows, taker) : search_floats<float>(rows, taker);
}

void floats_band(const FloatRows& rows, const FloatBand& band) {
  const FloatBandTaker taker(band, rows.N, rows.features);
  rows.float64 ? search_floats<double>(rows, taker) : search_floats<float>(rows, taker);
  for (int64_t n = 0; n < rows.N; ++n)
    if (band.counts[n] > 0) taker.compact(n);
}

void pair_values(const KnnPairs& pairs) { pairs.float64 ? values<double>(pairs) : values<float>(pairs); }

}  // namespace BIASGEN_ISA
}  // namespace biasgen
