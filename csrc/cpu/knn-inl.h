// Nearest rows: the loop source of every instruction set. A tile of distances, a test whether any of them can matter, a
// slow path.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "cpu/knn.h"
#include "cpu/knn_pack-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {  // nothing but the entry points leaves this file, so no copy for another level can be linked in its place

#if defined(__AVX512BW__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
inline Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class T>
inline void store(T* to, Vec<T> v) {
  std::memcpy(to, &v, sizeof v);
}

template <class T>
inline Vec<T> splat(T x) {
  return Vec<T>{} + x;
}

template <class V>
inline V smaller(V a, V b) {
  return a < b ? a : b;
}

// One bit a byte of the lanes where a <= b.
template <class T>
inline uint64_t at_most(Vec<T> a, Vec<T> b) {
  const auto condition = a <= b;
#if defined(__AVX512BW__)
  return _mm512_movepi8_mask((__m512i)condition);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_epi8((__m256i)condition));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_epi8((__m128i)condition));
#else
  uint64_t mask = 0;
  for (int i = 0; i < kLanes<T>; ++i)
    if (condition[i]) mask |= ((uint64_t{1} << sizeof(T)) - 1) << (i * sizeof(T));
  return mask;
#endif
}

// Set bits of every 16-bit or 64-bit lane.
template <class T>
inline Vec<T> count_bits(Vec<T> v) {
#if defined(__AVX512BITALG__) && defined(__AVX512VPOPCNTDQ__)
  if constexpr (sizeof(T) == 2) return (Vec<T>)_mm512_popcnt_epi16((__m512i)v);
  return (Vec<T>)_mm512_popcnt_epi64((__m512i)v);
#elif defined(__AVX2__)
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15), low = (__m256i)v & nibble,
                high = _mm256_srli_epi16((__m256i)v, 4) & nibble;
  const __m256i bytes = _mm256_add_epi8(_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high));
  if constexpr (sizeof(T) == 2) return (Vec<T>)_mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
  return (Vec<T>)_mm256_sad_epu8(bytes, _mm256_setzero_si256());
#elif defined(__SSSE3__)
  const __m128i table = _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m128i nibble = _mm_set1_epi8(15), low = (__m128i)v & nibble, high = _mm_srli_epi16((__m128i)v, 4) & nibble;
  const __m128i bytes = _mm_add_epi8(_mm_shuffle_epi8(table, low), _mm_shuffle_epi8(table, high));
  if constexpr (sizeof(T) == 2) return (Vec<T>)_mm_maddubs_epi16(bytes, _mm_set1_epi8(1));
  return (Vec<T>)_mm_sad_epu8(bytes, _mm_setzero_si128());
#else
  typedef Vec<uint8_t> Bytes;
  Bytes x = (Bytes)v;
  x = x - ((x >> 1) & 0x55);
  x = (x & 0x33) + ((x >> 2) & 0x33);
  x = (x + (x >> 4)) & 0x0f;
  Vec<T> sum = (Vec<T>)x;
  for (unsigned shift = 8; shift < 8 * sizeof(T); shift *= 2) sum += sum >> static_cast<T>(shift);
  return sum & static_cast<T>(0xff);
#endif
}

// sum + the squares of the two int16 in every 32-bit lane of d.
inline Vec<int32_t> add_squares(Vec<int32_t> sum, Vec<int16_t> d) {
#if defined(__AVX512VNNI__)
  return (Vec<int32_t>)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)d, (__m512i)d);
#elif defined(__AVX2__)
  return sum + (Vec<int32_t>)_mm256_madd_epi16((__m256i)d, (__m256i)d);
#elif defined(__SSE2__)
  return sum + (Vec<int32_t>)_mm_madd_epi16((__m128i)d, (__m128i)d);
#else
  const Vec<int32_t> pair = (Vec<int32_t>)d, high = pair >> 16, low = (pair << 16) >> 16;
  return sum + high * high + low * low;
#endif
}

// A metric computes the distances of kQueries query rows to a tile of up to kRows reference rows, lanes side by side in
// the order of the rows, and the smallest of each lane. Rows that only fill up the last panel get a distance too;
// nobody reads it.

// Positions where two rows of symbols of kBits bits differ: one xor a bit, or-ed together, and counted.
template <class Lane_, int kBits>
struct Hamming {
  using Lane = Lane_;
  static constexpr int kQueries = 4;  // 3 bits: 12 broadcasts and 4 minima in the 32 registers of AVX-512
  static constexpr int kPanelRows = 64 / sizeof(Lane),
                       kPanels = 8;  // measured: 4 to 16 panels differ by less than 10 %
  static constexpr int kRows = kPanelRows * kPanels;
  static constexpr bool kOneWord = sizeof(Lane) == 2;

  const Lane* query;
  const Lane* reference;
  int64_t words;

  explicit Hamming(const KnnRows& rows)
      : query(static_cast<const Lane*>(rows.query)),
        reference(static_cast<const Lane*>(rows.reference)),
        words(kOneWord ? 1 : (rows.features + 63) / 64) {}

  int64_t tile_bytes() const { return kRows * words * kBits * static_cast<int64_t>(sizeof(Lane)); }

  inline void tile(const int64_t* n, int64_t first, int64_t rows, Lane (*distances)[kRows], Vec<Lane>* smallest) const {
    Vec<Lane> symbol[kQueries][kBits];
    auto broadcast = [&](int q, int64_t word) {
      for (int b = 0; b < kBits; ++b) symbol[q][b] = splat(query[(n[q] * words + word) * kBits + b]);
    };
    for (int q = 0; q < kQueries; ++q) broadcast(q, 0);
    for (int64_t r = 0; r < rows; r += kLanes<Lane>) {
      const Lane* panel = reference + (first + r) / kPanelRows * kPanelRows * words * kBits + r % kPanelRows;
      Vec<Lane> sum[kQueries] = {};
      for (int64_t word = 0; word < (kOneWord ? 1 : words); ++word) {
        Vec<Lane> plane[kBits];
        for (int b = 0; b < kBits; ++b) plane[b] = load(panel + (word * kBits + b) * kPanelRows);
        for (int q = 0; q < kQueries; ++q) {
          if (!kOneWord) broadcast(q, word);
          Vec<Lane> differs = plane[0] ^ symbol[q][0];
          for (int b = 1; b < kBits; ++b) differs |= plane[b] ^ symbol[q][b];
          sum[q] += count_bits<Lane>(differs);
        }
      }
      for (int q = 0; q < kQueries; ++q) {
        store(distances[q] + r, sum[q]);
        smallest[q] = r ? smaller(smallest[q], sum[q]) : sum[q];
      }
    }
  }
};

// Sum of squared differences of bytes: int16 differences, multiplied and added in pairs.
struct SquaredEuclidean {
  using Lane = int64_t;
  static constexpr int kRows = 64;
  // Accumulators stay in registers over the depth: 4 x 4 of 32 (AVX-512), 4 x 2 of 16 (AVX2), 2 x 4 of 16.
  static constexpr int kVectors = kVectorBytes == 32 ? 2 : 4, kQueries = kVectorBytes == 16 ? 2 : 4;
  static constexpr int64_t kChunkPairs = 16384;  // 32768 squares of at most 255^2 fit in int32

  const int16_t* query;
  const uint8_t* reference;
  int64_t pairs;

  explicit SquaredEuclidean(const KnnRows& rows)
      : query(static_cast<const int16_t*>(rows.query)),
        reference(static_cast<const uint8_t*>(rows.reference)),
        pairs((rows.features + 1) / 2) {}

  int64_t tile_bytes() const { return kRows * pairs * 2; }

  inline void tile(const int64_t* n, int64_t first, int64_t, Lane (*distances)[kRows], Vec<Lane>* smallest) const {
    const uint8_t* panel = reference + first * pairs * 2;
    for (int r = 0; r < kRows; r += kVectors * kLanes<int32_t>)
      for (int64_t chunk = 0; chunk < pairs; chunk += kChunkPairs) {
        const int64_t end = chunk + kChunkPairs < pairs ? chunk + kChunkPairs : pairs;
        int32_t sums[kQueries][kVectors * kLanes<int32_t>];
        part(n, panel + 2 * r, chunk, end, sums);
        for (int q = 0; q < kQueries; ++q)
          for (int i = 0; i < kVectors * kLanes<int32_t>; ++i)
            distances[q][r + i] = (chunk ? distances[q][r + i] : 0) + sums[q][i];
      }
    for (int q = 0; q < kQueries; ++q) {
      smallest[q] = load(distances[q]);
      for (int r = kLanes<Lane>; r < kRows; r += kLanes<Lane>)
        smallest[q] = smaller(smallest[q], load(distances[q] + r));
    }
  }

  inline void part(const int64_t* n, const uint8_t* panel, int64_t begin, int64_t end,
                   int32_t (*sums)[kVectors * kLanes<int32_t>]) const {
    typedef uint8_t HalfBytes __attribute__((vector_size(kVectorBytes / 2)));
    Vec<int32_t> sum[kQueries][kVectors] = {};
    for (int64_t pair = begin; pair < end; ++pair) {
      Vec<int16_t> value[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        HalfBytes bytes;
        std::memcpy(&bytes, panel + (pair * kRows + v * kLanes<int32_t>)*2, sizeof bytes);
        value[v] = __builtin_convertvector(bytes, Vec<int16_t>);
      }
      for (int q = 0; q < kQueries; ++q) {
        int32_t two;
        std::memcpy(&two, query + (n[q] * pairs + pair) * 2, sizeof two);
        const Vec<int16_t> other = (Vec<int16_t>)splat(two);
        for (int v = 0; v < kVectors; ++v) sum[q][v] = add_squares(sum[q][v], value[v] - other);
      }
    }
    for (int q = 0; q < kQueries; ++q)
      for (int v = 0; v < kVectors; ++v) store(sums[q] + v * kLanes<int32_t>, sum[q][v]);
  }
};

// A sink says up to which distance a row matters to query n, and takes the rows that do, in ascending order.

struct NearestSink : KnnNearest {
  explicit NearestSink(const KnnNearest& nearest, int64_t N) : KnnNearest(nearest) {
    for (int64_t i = 0; i < N * k; ++i) distances[i] = INT64_MAX, rows[i] = -1;
    for (int64_t n = 0; n < N; ++n) tie_rows[n] = tie_counts[n] = 0;
  }

  // A row as far as the k-th is too late to enter, but counts as a tie when the k-th is also the nearest.
  int64_t limit(int64_t n) const {
    const int64_t best = distances[n * k], kth = distances[n * k + k - 1];
    return kth > best ? kth - 1 : kth;
  }

  void take(int64_t n, int64_t row, int64_t distance) const {
    int64_t *d = distances + n * k, *r = rows + n * k;
    if (distance < d[0]) tie_rows[n] = tie_counts[n] = 0;
    if (distance <= d[0]) {
      tie_rows[n] += 1;
      tie_counts[n] += multiplicity[row];
    }
    if (distance >= d[k - 1]) return;
    int64_t i = k - 1;
    for (; i > 0 && d[i - 1] > distance; --i) d[i] = d[i - 1], r[i] = r[i - 1];
    d[i] = distance;
    r[i] = row;
  }
};

struct WithinSink : KnnWithin {
  explicit WithinSink(const KnnWithin& within, int64_t N) : KnnWithin(within) {
    for (int64_t n = 0; n < N; ++n) cursor[n] = offsets[n];
  }

  int64_t limit(int64_t n) const { return radius[n]; }

  void take(int64_t n, int64_t row, int64_t) const {
    if (cursor[n] < offsets[n + 1]) rows[cursor[n]] = row;
    ++cursor[n];
  }
};

template <class Lane>
inline Lane clamped(int64_t limit) {
  const int64_t largest = sizeof(Lane) == 2 ? INT16_MAX : INT64_MAX;
  return static_cast<Lane>(limit > largest ? largest : limit < -1 ? -1 : limit);
}

// Hands the rows of one query's tile that are within its limit to the sink; the limit may fall on the way.
template <class Lane, class Sink>
__attribute__((noinline)) Lane take_tile(const Sink& sink, int64_t n, int64_t first, int64_t rows,
                                         const Lane* distances) {
  Lane limit = clamped<Lane>(sink.limit(n));
  for (int64_t r = 0; r < rows; r += kLanes<Lane>) {
    uint64_t hits = at_most<Lane>(load(distances + r), splat(limit));
    while (hits) {
      const int64_t lane = __builtin_ctzll(hits) / static_cast<int>(sizeof(Lane)), row = r + lane;
      hits &= ~(((uint64_t{1} << sizeof(Lane)) - 1) << (lane * sizeof(Lane)));
      if (row >= rows) break;
      if (distances[row] > limit) continue;
      sink.take(n, first + row, distances[row]);
      limit = clamped<Lane>(sink.limit(n));
    }
  }
  return limit;
}

template <class Metric, class Sink>
void search(const Metric& metric, int64_t N, int64_t M, const Sink& sink) {
  using Lane = typename Metric::Lane;
  constexpr int Q = Metric::kQueries;
  constexpr int64_t kCacheBytes =
      256 << 10;  // reference rows that all queries visit before the next ones: half of a small L2
  const int64_t tiles = kCacheBytes / metric.tile_bytes(), block_rows = (tiles > 1 ? tiles : 1) * Metric::kRows;
  alignas(64) Lane distances[Q][Metric::kRows];
  for (int64_t block = 0; block < M; block += block_rows) {
    const int64_t block_end = block + block_rows < M ? block + block_rows : M;
    for (int64_t group = 0; group < N; group += Q) {
      int64_t n[Q];
      Lane limit[Q];
      for (int q = 0; q < Q; ++q) {  // beyond the last query: the last one again, with a limit that nothing meets
        n[q] = group + q < N ? group + q : N - 1;
        limit[q] = group + q < N ? clamped<Lane>(sink.limit(n[q])) : -1;
      }
      for (int64_t first = block; first < block_end; first += Metric::kRows) {
        const int64_t rows = first + Metric::kRows < block_end ? Metric::kRows : block_end - first;
        Vec<Lane> smallest[Q];
        metric.tile(n, first, rows, distances, smallest);
        for (int q = 0; q < Q; ++q)
          if (at_most<Lane>(smallest[q], splat(limit[q])))
            limit[q] = take_tile<Lane>(sink, n[q], first, rows, distances[q]);
      }
    }
  }
}

template <class Lane, class Sink>
void search_tokens(const KnnRows& rows, const Sink& sink) {
  switch (rows.bits) {
    case 1:
      return search(Hamming<Lane, 1>(rows), rows.N, rows.M, sink);
    case 2:
      return search(Hamming<Lane, 2>(rows), rows.N, rows.M, sink);
    case 3:
      return search(Hamming<Lane, 3>(rows), rows.N, rows.M, sink);
    case 4:
      return search(Hamming<Lane, 4>(rows), rows.N, rows.M, sink);
    case 5:
      return search(Hamming<Lane, 5>(rows), rows.N, rows.M, sink);
    case 6:
      return search(Hamming<Lane, 6>(rows), rows.N, rows.M, sink);
    case 7:
      return search(Hamming<Lane, 7>(rows), rows.N, rows.M, sink);
    default:
      return search(Hamming<Lane, 8>(rows), rows.N, rows.M, sink);
  }
}

template <class Sink>
void search_rows(const KnnRows& rows, const Sink& sink) {
  if (rows.distance == Distance::sqeuclidean) return search(SquaredEuclidean(rows), rows.N, rows.M, sink);
  if (lane_bytes(rows.distance, rows.features) == 2) return search_tokens<int16_t>(rows, sink);
  search_tokens<int64_t>(rows, sink);
}

}  // namespace

void pack_query(Distance distance, const uint8_t* rows, int64_t N, int64_t features, int64_t bits, void* packed) {
  pack<int16_t>(distance, rows, N, features, bits, 1, packed);
}

void pack_reference(Distance distance, const uint8_t* rows, int64_t M, int64_t features, int64_t bits, void* packed) {
  pack<uint8_t>(distance, rows, M, features, bits, panel_rows(distance, features), packed);
}

void knn(const KnnRows& rows, const KnnNearest& nearest) { search_rows(rows, NearestSink(nearest, rows.N)); }

void rows_within(const KnnRows& rows, const KnnWithin& within) { search_rows(rows, WithinSink(within, rows.N)); }

}  // namespace BIASGEN_ISA
}  // namespace biasgen
