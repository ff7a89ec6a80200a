// Exact nearest rows on the CPU: what crosses between the bindings and the kernels of each instruction set.
#pragma once
#include <cstdint>

namespace biasgen {

// Each search has a list of its distances: a switch over one has no default, so that the compiler names what a new
// distance lacks. The bindings parse the names, in the order of the list.
enum class IntegerDistance { hamming, sqeuclidean };
inline constexpr const char* kIntegerDistances[] = {"hamming", "sqeuclidean"};
enum class FloatDistance { sqeuclidean, cosine, correlation };
inline constexpr const char* kFloatDistances[] = {"sqeuclidean", "cosine", "correlation"};
enum class DirectDistance { cityblock, chebyshev };
inline constexpr const char* kDirectDistances[] = {"cityblock", "chebyshev"};
enum class Element { uint8, uint16, float32, float64 };

// N query rows against M reference rows of integers.
struct KnnRows {
  IntegerDistance distance;
  Element element;        // of the query: uint8; hamming: uint8 or uint16
  const void* query;      // (N, features)
  const void* reference;  // hamming: packed by pack_reference; sqeuclidean: the rows themselves, (M, features) bytes
  int64_t N, M, features;
  int64_t bits;   // hamming: planes of a symbol, enough for the largest on either side; the reference was packed for it
  void* scratch;  // scratch_bytes(...), aligned to 64 bytes
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

// How a row becomes its point of length 1, (x - mean) / largest / length (docs/exactness.md). The zero row has length
// 0. inverse: 1 / (largest length), or 0 where that is no sensible factor of single precision (of double for float64
// rows).
struct Scaling {
  double mean, largest, length, inverse;
};

// N query rows against M reference rows of one element type, by the squared distance of the rows, or by half that of
// their points. The reference was encoded by encode_rows; `outlying` are its rows with a residual above usual_residual,
// whose codes say little.
struct FloatRows {
  FloatDistance distance;
  Element element;
  const void* query;      // (N, features)
  const void* reference;  // (M, features)
  int64_t N, M, features;
  const double* center;  // (features,)
  double unit;           // between codes: at least 1e-100, 24 significant bits
  const uint8_t* reference_codes;
  const double* reference_residuals;
  const Scaling* reference_scalings;  // (M,); sqeuclidean: none
  double usual_residual;
  const int64_t* outlying;  // (outliers,)
  int64_t outliers;
  uint8_t* query_codes;     // (N, features), written here like the following
  double* query_residuals;  // (N,)
  Scaling* query_scalings;  // (N,); sqeuclidean: none
  int64_t* limits;          // (N,)
  void* scratch;            // scratch_bytes(...), aligned to 64 bytes
};

// KnnNearest and KnnWithin of values; no row that does not exist is left in `rows` as k <= M.
struct FloatNearest {
  int64_t k;
  const int64_t* multiplicity;  // (M,)
  double* values;               // (N, k)
  int64_t* rows;                // (N, k)
  int64_t* tie_rows;            // (N,)
  int64_t* tie_counts;          // (N,)
};

struct FloatWithin {
  const double* radius;    // (N,)
  const int64_t* offsets;  // (N + 1,)
  int64_t* cursor;         // (N,)
  int64_t* rows;
};

// The rows that can be at |z - y|^2 <= min + bands[n] from z, whatever z within rests[n] of query n; in rows[n *
// capacity ..], in no order; counts[n] = -1 where the list was too short or the codes left more than most_tries rows
// open.
struct FloatBand {
  const double* rests;  // (N,) finite
  const double* bands;  // (N,) finite
  int64_t capacity;     // M is enough
  int64_t most_tries;
  int64_t* counts;  // (N,)
  int64_t* rows;    // (N, capacity)
  double* values;   // (N, capacity), scratch like the following
  int64_t* tries;   // (N,)
  double* nearest;  // (N,)
  double* reaches;  // (N,)
};

// N rows to codes (N, features), residuals (N,) and, for cosine and correlation, scalings (N,).
struct FloatCodes {
  FloatDistance distance;
  Element element;
  const void* rows;  // (N, features)
  int64_t N, features;
  const double* center;  // (features,)
  double unit;
  uint8_t* codes;
  double* residuals;
  Scaling* scalings;
};

// N query rows against M reference rows of one element type, pair by pair.
struct DirectRows {
  DirectDistance distance;
  Element element;        // uint8, float32 or float64
  const void* query;      // (N, features)
  const void* reference;  // (M, features)
  int64_t N, M, features;
  void* scratch;  // direct_scratch_bytes(N), aligned to 64 bytes
};

// Hamming works on lanes of 16 positions (short rows, one word) or 64.
static inline int64_t lane_bytes(int64_t features) { return features > 16 ? 8 : 2; }

// Planes that there are kernels for.
static inline bool known_bits(int64_t bits) { return (bits >= 1 && bits <= 8) || bits == 12 || bits == 16; }

// Bytes of a row as bit planes: `bits` lanes a word.
static inline int64_t planes_bytes(int64_t features, int64_t bits) {
  const int64_t lane = lane_bytes(features);
  return (features + 8 * lane - 1) / (8 * lane) * bits * lane;
}

// Reference rows whose planes lie side by side. Fixed, so that packed rows serve every instruction set.
static inline int64_t plane_rows(int64_t features) { return 64 / lane_bytes(features); }

// What a search of N queries needs beside its operands, at any instruction set.
static inline int64_t scratch_bytes(IntegerDistance distance, int64_t N, int64_t features, int64_t bits) {
  if (distance == IntegerDistance::hamming) return N * planes_bytes(features, bits);
  // The queries in whole groups of 8 and a panel of 48 rows, at most two bytes a feature, up to 16 features more; per
  // query its square and limit, per row of the panel two constants.
  return ((N + 7) / 8 * 8 + 48) * ((features + 15) / 16 * 32 + 16);
}

// Rows of the reference that are searched together at most.
constexpr int64_t kDirectRows = 256;

// A vector for each query and for each of these rows.
static inline int64_t direct_scratch_bytes(int64_t N) { return (N + kDirectRows) * 64; }

// pack_reference writes lane[panel][word][bit][plane_rows]: bit l of the lane = bit `bit` of the symbol at position
// word * (8 * lane_bytes) + l; the last panel is filled up with zeros.
#define BIASGEN_KNN_KERNELS(ISA)                                                                                   \
  inline namespace ISA {                                                                                           \
  void pack_reference(const void* rows, Element element, int64_t M, int64_t features, int64_t bits, void* packed); \
  void knn(const KnnRows& rows, const KnnNearest& nearest);                                                        \
  void rows_within(const KnnRows& rows, const KnnWithin& within);                                                  \
  void encode(const FloatCodes& codes);                                                                            \
  void knn_floats(const FloatRows& rows, const FloatNearest& nearest);                                             \
  void floats_within(const FloatRows& rows, const FloatWithin& within);                                            \
  void floats_band(const FloatRows& rows, const FloatBand& band);                                                  \
  void direct_knn(const DirectRows& rows, const KnnNearest& nearest);                                              \
  void direct_within(const DirectRows& rows, const KnnWithin& within);                                             \
  void direct_floats_knn(const DirectRows& rows, const FloatNearest& nearest);                                     \
  void direct_floats_within(const DirectRows& rows, const FloatWithin& within);                                    \
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
