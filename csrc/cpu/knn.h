// Exact nearest rows on the CPU: what crosses between the bindings and the kernels of each instruction set.
#pragma once
#include <cstdint>

namespace biasgen {

enum class Distance { hamming, sqeuclidean };

// N query rows against M packed reference rows. Both sides were packed for the same distance, `features` and `bits`:
// bits of the largest symbol for hamming (1..8), 8 for sqeuclidean.
struct KnnRows {
  Distance distance;
  const void* query;      // packed with width 1, 8-byte aligned
  const void* reference;  // packed with width panel_rows()
  int64_t N, M, features, bits;
};

// The k smallest of each query by (distance, row), ascending; tie_rows: rows that share the smallest distance,
// tie_counts: the sum of their multiplicities. 1 <= k <= M.
struct KnnNearest {
  int64_t k;
  const int64_t* multiplicity;  // (M,)
  int64_t* distances;           // (N, k)
  int64_t* rows;                // (N, k)
  int64_t* tie_rows;            // (N,)
  int64_t* tie_counts;          // (N,)
};

// Rows at distance <= radius[n], ascending, in rows[offsets[n] .. offsets[n + 1]). cursor[n] ends at offsets[n] + the
// number of rows found; what would not fit is counted there and not written.
struct KnnWithin {
  const int64_t* radius;   // (N,)
  const int64_t* offsets;  // (N + 1,)
  int64_t* cursor;         // (N,)
  int64_t* rows;
};

// Hamming works on lanes of 16 positions (short rows, one word) or 64; squared distances on pairs of bytes.
static inline int64_t lane_bytes(Distance distance, int64_t features) {
  return distance == Distance::hamming && features > 16 ? 8 : 2;
}

// Rows that lie side by side in the packed reference. Fixed, so that packed rows serve every instruction set.
static inline int64_t panel_rows(Distance distance, int64_t features) {
  return distance == Distance::sqeuclidean ? 64 : 64 / lane_bytes(distance, features);
}

// Bytes that a packed row takes: `bits` lanes a word, or the features rounded up to whole pairs (a query: of int16).
static inline int64_t packed_row_bytes(Distance distance, int64_t features, int64_t bits, bool query) {
  if (distance == Distance::sqeuclidean) return (features + 1) / 2 * (query ? 4 : 2);
  const int64_t lane = lane_bytes(distance, features);
  return (features + 8 * lane - 1) / (8 * lane) * bits * lane;
}

// The layouts (`width` rows side by side; the last panel is filled up with zeros):
//   hamming      lane[panel][word][bit][width]; bit l of the lane = bit `bit` of the symbol at position word * lane
//   bits + l sqeuclidean  byte[panel][pair][width][2];   a query (width 1) holds int16 in place of bytes
#define BIASGEN_KNN_KERNELS(ISA)                                                                                    \
  inline namespace ISA {                                                                                            \
  void pack_query(Distance distance, const uint8_t* rows, int64_t N, int64_t features, int64_t bits, void* packed); \
  void pack_reference(Distance distance, const uint8_t* rows, int64_t M, int64_t features, int64_t bits,            \
                      void* packed);                                                                                \
  void knn(const KnnRows& rows, const KnnNearest& nearest);                                                         \
  void rows_within(const KnnRows& rows, const KnnWithin& within);                                                   \
  }

#ifdef BIASGEN_ISA  // a kernel file knows its own level, the bindings know all
BIASGEN_KNN_KERNELS(BIASGEN_ISA)
#else
BIASGEN_KNN_KERNELS(baseline)
#ifdef BIASGEN_X86
BIASGEN_KNN_KERNELS(avx2)
BIASGEN_KNN_KERNELS(avx512)
#endif
#endif

}  // namespace biasgen
