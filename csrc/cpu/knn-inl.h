// Nearest rows: the entry points of one instruction set.
#pragma once
#include <cstdint>

#include "cpu/knn.h"
#include "cpu/knn_band-inl.h"
#include "cpu/knn_direct-inl.h"
#include "cpu/knn_floats-inl.h"
#include "cpu/knn_hamming-inl.h"
#include "cpu/knn_sinks-inl.h"
#include "cpu/knn_squares-inl.h"
#include "cpu/row_values-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {

void pack_reference(const void* rows, Element element, int64_t M, int64_t features, int64_t bits, void* packed) {
  pack_planes(rows, element, M, features, bits, plane_rows(features), packed);
}

namespace {

template <class Sink>
void search_integers(const KnnRows& rows, const Sink& sink) {
  switch (rows.distance) {
    case IntegerDistance::hamming:
      return search_planes(rows, sink);
    case IntegerDistance::sqeuclidean:
      return search_squares(rows, sink);
  }
}

}  // namespace

void knn(const KnnRows& rows, const KnnNearest& nearest) { search_integers(rows, NearestSink(nearest, rows.N)); }

void rows_within(const KnnRows& rows, const KnnWithin& within) { search_integers(rows, WithinSink(within, rows.N)); }

void encode(const FloatCodes& codes) {
  with_element(codes, [&](auto element, auto scaled) { encode_rows<decltype(element), scaled>(codes); });
}

void knn_floats(const FloatRows& rows, const FloatNearest& nearest) {
  search_floats(rows, FloatNearestTaker(nearest, rows.N));
}

void floats_within(const FloatRows& rows, const FloatWithin& within) {
  search_floats(rows, FloatWithinTaker(within, rows.N));
}

void floats_band(const FloatRows& rows, const FloatBand& band) {
  const FloatBandTaker taker(band, rows.N, rows.features);
  search_floats(rows, taker);
  for (int64_t n = 0; n < rows.N; ++n)
    if (band.counts[n] > 0) taker.compact(n);
}

void direct_knn(const DirectRows& rows, const KnnNearest& nearest) {
  search_direct<uint8_t>(rows, NearestSink(nearest, rows.N));
}

void direct_within(const DirectRows& rows, const KnnWithin& within) {
  search_direct<uint8_t>(rows, WithinSink(within, rows.N));
}

void direct_floats_knn(const DirectRows& rows, const FloatNearest& nearest) {
  search_direct_floats(rows, FloatNearestTaker(nearest, rows.N));
}

void direct_floats_within(const DirectRows& rows, const FloatWithin& within) {
  search_direct_floats(rows, FloatWithinTaker(within, rows.N));
}

}  // namespace BIASGEN_ISA
}  // namespace biasgen
