// Positions where rows of symbols differ: bit planes, a tile of distances, a test whether any of them can matter.
#pragma once
#include <cstdint>
#include <cstring>

#include "cpu/knn.h"
#include "cpu/simd-inl.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

// Bit planes; eight symbols at a time, their low bytes apart from their high ones: bit b of each moves to the lowest
// bit of its byte, a product gathers the eight in one byte.
template <class Symbol, class Lane>
void pack_lanes(const Symbol* rows, int64_t count, int64_t features, int64_t bits, int64_t width, Lane* packed) {
  constexpr int64_t kPositions = 8 * sizeof(Lane);
  const int64_t words = (features + kPositions - 1) / kPositions;
  for (int64_t row = 0; row < count; ++row)
    for (int64_t word = 0; word < words; ++word) {
      const int64_t begin = word * kPositions, left = features - begin;
      uint8_t symbols[2][kPositions] = {};
      for (int64_t l = 0; l < (left < kPositions ? left : kPositions); ++l) {
        const uint32_t symbol = rows[row * features + begin + l];
        symbols[0][l] = static_cast<uint8_t>(symbol);
        symbols[1][l] = static_cast<uint8_t>(symbol >> 8);
      }
      for (int64_t b = 0; b < bits; ++b) {
        uint64_t plane = 0;
        for (int64_t l = 0; l < kPositions; l += 8) {
          uint64_t eight = 0;
          for (int i = 0; i < 8; ++i) eight |= static_cast<uint64_t>(symbols[b / 8][l + i]) << (8 * i);
          plane |= (((eight >> b % 8) & 0x0101010101010101u) * 0x0102040810204080u >> 56) << l;
        }
        packed[((row / width * words + word) * bits + b) * width + row % width] = static_cast<Lane>(plane);
      }
    }
}

inline void pack_planes(const void* rows, Element element, int64_t count, int64_t features, int64_t bits, int64_t width,
                        void* packed) {
  auto pack = [&](auto* lanes) {
    if (element == Element::uint16)
      pack_lanes(static_cast<const uint16_t*>(rows), count, features, bits, width, lanes);
    else
      pack_lanes(static_cast<const uint8_t*>(rows), count, features, bits, width, lanes);
  };
  lane_bytes(features) == 2 ? pack(static_cast<int16_t*>(packed)) : pack(static_cast<int64_t*>(packed));
}

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
      : query(static_cast<const Lane*>(rows.scratch)),
        reference(static_cast<const Lane*>(rows.reference)),
        words(kOneWord ? 1 : (rows.features + 63) / 64) {}

  int64_t tile_bytes() const { return kRows * words * kBits * static_cast<int64_t>(sizeof(Lane)); }

  // Calls each(q, r, distances of query n[q] to the rows first + r, first + r + 1 ... of a vector).
  template <int kCount, class Each>
  inline void tile(const int64_t* n, int64_t first, int64_t rows, const Each& each) const {
    Vec<Lane> symbol[kCount][kBits];
    auto broadcast = [&](int q, int64_t word) {
      for (int b = 0; b < kBits; ++b) symbol[q][b] = splat(query[(n[q] * words + word) * kBits + b]);
    };
    for (int q = 0; q < kCount; ++q) broadcast(q, 0);
    for (int64_t r = 0; r < rows; r += kLanes<Lane>) {
      const Lane* panel = reference + (first + r) / kPanelRows * kPanelRows * words * kBits + r % kPanelRows;
      Vec<Lane> sum[kCount] = {};
      for (int64_t word = 0; word < (kOneWord ? 1 : words); ++word) {
        Vec<Lane> plane[kBits];
        for (int b = 0; b < kBits; ++b) plane[b] = load(panel + (word * kBits + b) * kPanelRows);
        for (int q = 0; q < kCount; ++q) {
          if (!kOneWord) broadcast(q, word);
          Vec<Lane> differs = plane[0] ^ symbol[q][0];
          for (int b = 1; b < kBits; ++b) differs |= plane[b] ^ symbol[q][b];
          sum[q] += count_bits<Lane>(differs);
        }
      }
      for (int q = 0; q < kCount; ++q) each(q, r, sum[q]);
    }
  }
};

template <class Lane>
inline Lane clamped(int64_t limit) {
  const int64_t largest = sizeof(Lane) == 2 ? INT16_MAX : INT64_MAX;
  return static_cast<Lane>(limit > largest ? largest : limit < -1 ? -1 : limit);
}

// The smallest of lanes that are not negative.
template <class Lane>
inline Lane least_lane(Vec<Lane> v) {
  constexpr int kParts = kVectorBytes / 16;
  typedef Lane Part __attribute__((vector_size(16)));
  Part part[kParts];
  std::memcpy(part, &v, sizeof v);
  for (int i = 1; i < kParts; ++i) part[0] = smaller(part[0], part[i]);
#if defined(__SSE4_1__)
  if constexpr (sizeof(Lane) == 2) return static_cast<Lane>(_mm_extract_epi16(_mm_minpos_epu16((__m128i)part[0]), 0));
#endif
  Lane least = part[0][0];
  for (unsigned i = 1; i < 16 / sizeof(Lane); ++i) least = part[0][i] < least ? part[0][i] : least;
  return least;
}

// Hands the rows of a tile that are within the limit of query n to the sink; the limit may fall on the way.
template <class Metric, class Sink>
void take_tile(const Metric& metric, const Sink& sink, int64_t n, int64_t first, int64_t rows,
               typename Metric::Lane& limit, int64_t least) {
  using Lane = typename Metric::Lane;
  alignas(64) Lane distances[Metric::kRows];
  metric.template tile<1>(&n, first, rows, [&](int, int64_t r, Vec<Lane> d) { store(distances + r, d); });
  for (int64_t r = 0; r < rows; r += kLanes<Lane>) {
    uint64_t hits = at_most<Lane>(load(distances + r), splat(limit));
    while (hits) {
      const int64_t lane = __builtin_ctzll(hits) / static_cast<int>(sizeof(Lane)), row = r + lane;
      hits &= ~(((uint64_t{1} << sizeof(Lane)) - 1) << (lane * sizeof(Lane)));
      if (row >= rows) break;
      if (distances[row] > limit) continue;
      sink.take(n, first + row, distances[row]);
      limit = clamped<Lane>(sink.limit(n, least));
    }
  }
}

// A block of rows is searched twice: for the least distance of every tile, without a branch, and where that is near
// enough, once more for the rows themselves. Most queries have a handful of such tiles.
template <class Metric, class Sink>
void search(const Metric& metric, int64_t N, int64_t M, const Sink& sink) {
  using Lane = typename Metric::Lane;
  constexpr int Q = Metric::kQueries, kRows = Metric::kRows;
  constexpr Lane kFar = sizeof(Lane) == 2 ? INT16_MAX : INT64_MAX;
  // Rows that all queries visit before the next ones: half of a small L2.
  constexpr int64_t kCacheBytes = 256 << 10, kTiles = kCacheBytes / (kRows * sizeof(Lane));
  const int64_t tiles = kCacheBytes / metric.tile_bytes(), block_rows = (tiles > 1 ? tiles : 1) * kRows;
  alignas(64) Lane least[Q][kTiles];
  for (int64_t block = 0; block < M; block += block_rows) {
    const int64_t block_end = block + block_rows < M ? block + block_rows : M;
    for (int64_t group = 0; group < N; group += Q) {
      int64_t n[Q];
      for (int q = 0; q < Q; ++q) n[q] = group + q < N ? group + q : N - 1;
      Lane nearest[Q];
      for (int q = 0; q < Q; ++q) nearest[q] = kFar;
      int64_t tile = 0;
      for (int64_t first = block; first < block_end; first += kRows, ++tile) {
        const int64_t rows = first + kRows < block_end ? kRows : block_end - first;
        Vec<Lane> smallest[Q];
        for (int q = 0; q < Q; ++q) smallest[q] = splat(kFar);
        metric.template tile<Q>(n, first, rows,
                                [&](int q, int64_t, Vec<Lane> d) { smallest[q] = smaller(smallest[q], d); });
        for (int q = 0; q < Q; ++q) {
          least[q][tile] = least_lane<Lane>(smallest[q]);
          // What fills up the last tile may be nearer than any row.
          if (rows == kRows && least[q][tile] < nearest[q]) nearest[q] = least[q][tile];
        }
      }
      for (int64_t i = tile; i % kLanes<Lane>; ++i)
        for (int q = 0; q < Q; ++q) least[q][i] = kFar;
      for (int q = 0; q < Q && group + q < N; ++q) {
        Lane limit = clamped<Lane>(sink.limit(n[q], nearest[q]));
        for (int64_t from = 0; from < tile; from += kLanes<Lane>)
          for (uint64_t hits = at_most<Lane>(load(least[q] + from), splat(limit)); hits;) {
            const int64_t lane = __builtin_ctzll(hits) / static_cast<int>(sizeof(Lane)), i = from + lane;
            hits &= ~(((uint64_t{1} << sizeof(Lane)) - 1) << (lane * sizeof(Lane)));
            const int64_t first = block + i * kRows;
            if (i >= tile || least[q][i] > limit) continue;
            take_tile(metric, sink, n[q], first, first + kRows < block_end ? kRows : block_end - first, limit,
                      nearest[q]);
          }
      }
    }
  }
}

template <class Lane, class Sink>
void search_lanes(const KnnRows& rows, const Sink& sink) {
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
    case 12:
      return search(Hamming<Lane, 12>(rows), rows.N, rows.M, sink);
    case 16:
      return search(Hamming<Lane, 16>(rows), rows.N, rows.M, sink);
    default:
      return search(Hamming<Lane, 8>(rows), rows.N, rows.M, sink);
  }
}

template <class Sink>
void search_planes(const KnnRows& rows, const Sink& sink) {
  pack_planes(rows.query, rows.element, rows.N, rows.features, rows.bits, 1, rows.scratch);
  lane_bytes(rows.features) == 2 ? search_lanes<int16_t>(rows, sink) : search_lanes<int64_t>(rows, sink);
}

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
