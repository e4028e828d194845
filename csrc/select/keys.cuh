// SPDX-License-Identifier: MIT OR Apache-2.0
// The scores of a row as keys that ascend with them, in vectors of 16 bytes.
#ifndef LACUNA_SELECT_KEYS_CUH_
#define LACUNA_SELECT_KEYS_CUH_

#include "../common/number.cuh"
#include "params.h"
#include "team.cuh"

namespace {

// A row's candidates, and what is asked of them.
struct Row {
  const uint8_t* scores;
  // Where the first candidate is marked, or null.
  uint8_t* kept;
  uint32_t start;
  uint32_t length;
  // Picks, at most; and marks of those that are kept, or the same where none are asked for.
  uint32_t n_most;
  uint32_t n_most_kept;
  // The rule's number.
  float amount;
  // How many the rule wants where that is known beforehand, and else no more than the candidates.
  uint32_t n_known;
};

__device__ __forceinline__ uint32_t at_most(uint32_t x, uint32_t most) {
  return x < most ? x : most;
}

__device__ __forceinline__ Row locate_row(const SelectTopkParams& params, uint32_t row) {
  const uint32_t start = params.starts != nullptr ? params.starts[row] : 0;
  Row found;
  found.start = at_most(start, params.n);
  found.scores =
      params.scores + (row * params.row_stride + found.start) * float_bytes(params.element);
  const uint32_t rest = params.n - found.start;
  found.length = rest;
  if (params.lengths != nullptr) {
    const uint32_t n_tokens = params.lengths[row / params.rows_per_request];
    const uint32_t n_whole = n_tokens / params.tokens_per_score;
    const uint32_t n_begun = n_whole * params.tokens_per_score != n_tokens ? 1 : 0;
    found.length = at_most(n_whole + n_begun, rest);
  }
  const uint32_t n_asked = params.counts_asked != nullptr ? params.counts_asked[row] : 0xFFFFFFFF;
  found.n_most = at_most(n_asked, params.k);
  found.n_most_kept = params.kept != nullptr ? n_asked : found.n_most;
  found.kept =
      params.kept != nullptr ? params.kept + uint64_t{row} * params.n + found.start : nullptr;
  found.amount = params.amounts != nullptr ? params.amounts[row] : params.amount;
  return found;
}

// Keys ascend with scores from NaN over -inf to +inf; zeros of both signs are one. They stand in
// the upper bits of 32, and scores of 16 bits have none in the lower, so that the rest is the same
// for all types of scores. `kFirst` in those bits is of candidates that come before all others, and
// 0 where there is no candidate: since no search asks for more than there are, it is never picked
// and may be counted.
struct Format {
  enum : uint32_t { kZero = 0x80000000, kFirst = 0xFFFFFFFF };

  uint32_t kind;

  __device__ bool is_wide() const { return kind == kFloatF32; }
  __device__ uint32_t n_bits() const { return is_wide() ? 32 : 16; }
  __device__ uint32_t score_bytes() const { return is_wide() ? 4 : 2; }
  __device__ uint32_t n_of_vector() const { return is_wide() ? 4 : 8; }

  // Less than `kFirst` in its upper bits, and no less than any other key.
  __device__ uint32_t below_first() const { return (uint32_t{kFirst} << (32 - n_bits())) - 1; }

  __device__ uint32_t infinity() const {
    return kZero | (kind == kFloatF16 ? 0x7C000000 : 0x7F800000);
  }

  // Of two scores of 16 bits at once, or of one: what overflows a magnitude arrives in the place of
  // its sign.
  __device__ uint32_t stored_of(uint32_t word) const {
    if (is_wide()) {
      // Inner loop: not this way.
      const uint32_t magnitude = word & 0x7FFFFFFF;
      if (magnitude > 0x7F800000) return 1;
      if (magnitude == 0) return kZero;
      return word >> 31 != 0 ? ~word : word | kZero;
    }
    const uint32_t magnitudes = word & 0x7FFF7FFF;
    const uint32_t signs = word >> 15 & 0x00010001;
    const uint32_t have_magnitude = (magnitudes + 0x7FFF7FFF) >> 15;
    const uint32_t most = kind == kFloatBf16 ? 0x7F80 : 0x7C00;
    const uint32_t above = magnitudes + (0x7FFF - most) * 0x00010001;
    const uint32_t are_nan = above >> 15 & 0x00010001;
    const uint32_t ordered = (word ^ 0x80008000 ^ signs * 0x7FFF) + (signs & ~have_magnitude);
    return (ordered & ~(are_nan * 0xFFFF)) | are_nan;
  }

  __device__ uint32_t key_of(uint32_t bits) const { return stored_of(bits) << (32 - n_bits()); }

  // The magnitude of a score above zero.
  __device__ float value_of(uint32_t key) const {
    const uint32_t magnitude = key & 0x7FFFFFFF;
    return kind == kFloatF16 ? from_f16(magnitude >> 16) : __uint_as_float(magnitude);
  }

  // The greatest number that all keys of scores of `least` or more, which is not NaN, are above.
  __device__ uint32_t key_before(float least) const {
    if (is_wide()) return key_of(__float_as_uint(least)) - 1;
    const uint32_t nearest = kind == kFloatBf16 ? to_bf16(least) : to_f16(least);
    const float value = kind == kFloatBf16 ? from_bf16(nearest) : from_f16(nearest);
    const uint32_t key = key_of(nearest);
    return value < least ? key : key - 1;
  }
};

// Of 16 bytes; keys of 16 bits two to a word.
struct Vector {
  uint32_t words[4];
};

__device__ __forceinline__ Vector load_vector(const void* source) {
  const uint4 four = *static_cast<const uint4*>(source);
  return {{four.x, four.y, four.z, four.w}};
}

// Both keys of a word, or its only one; each with a number, two to a word.
template <typename Visit>
__device__ __forceinline__ void visit_word(uint32_t word, uint32_t w, bool is_wide, Visit visit) {
  visit(2 * w, is_wide ? word : word << 16);
  if (!is_wide) visit(2 * w + 1, word & 0xFFFF0000);
}

template <typename Visit>
__device__ __forceinline__ void visit_vector(const Vector& vector, bool is_wide, Visit visit) {
#pragma unroll
  for (uint32_t w = 0; w < 4; ++w) visit_word(vector.words[w], w, is_wide, visit);
}

// The same, rolled up: for what is long.
template <typename Visit>
__device__ __forceinline__ void visit_slowly(Vector vector, bool is_wide, Visit visit) {
  uint32_t(&words)[4] = vector.words;
#pragma unroll 1
  for (uint32_t w = 0; w < 4; ++w) {
    visit_word(words[0], w, is_wide, visit);
    words[0] = words[1];
    words[1] = words[2];
    words[2] = words[3];
  }
}

// The key of a number. Registers have no index.
__device__ __forceinline__ uint32_t find_key(const Vector& vector, uint32_t number, bool is_wide) {
  const uint32_t(&words)[4] = vector.words;
  const uint32_t w = number / 2;
  const uint32_t word = w < 2 ? (w == 0 ? words[0] : words[1]) : (w == 2 ? words[2] : words[3]);
  return is_wide ? word : number % 2 == 0 ? word << 16 : word & 0xFFFF0000;
}

// A block's part of a row: as many vectors as other blocks have, or the rest, or none. Vectors are
// those of memory, so that all but the row's ends are loaded whole, wherever it starts.
struct Slice {
  // Of the first vector.
  const uint8_t* memory;
  uint32_t n_vectors;
  // Vectors of nothing but plain candidates.
  uint32_t first_plain;
  uint32_t n_plain;
  // Scores before the row in the first vector.
  uint32_t skew;
  // The first candidate in the row, and how many there are; of none it may be past the row.
  uint32_t first;
  uint32_t length;
  // Those that nothing forces are from here to there.
  uint32_t free_begin;
  uint32_t free_end;
};

__device__ __forceinline__ Slice cut_slice(const SelectTopkParams& params, const Row& row,
                                           const Team& team) {
  const Format format = {params.element};
  const uint32_t n_of_vector = format.n_of_vector();
  const uint32_t skew_bytes = static_cast<uint32_t>(reinterpret_cast<uint64_t>(row.scores) % 16);
  const uint32_t skew = skew_bytes / format.score_bytes();
  const uint32_t n_of_row = (skew + row.length + n_of_vector - 1) / n_of_vector;
  uint32_t before = 0;
  Slice slice;
  slice.n_vectors = n_of_row;
  if (!team.is_alone()) {
    // Whole warps' vectors, so that no sector is two blocks'.
    const uint32_t n_each = ((n_of_row + team.n_blocks - 1) / team.n_blocks + 31) / 32 * 32;
    before = at_most(team.rank * n_each, n_of_row);
    slice.n_vectors = at_most(n_each, n_of_row - before);
  }
  slice.memory = row.scores - skew_bytes + uint64_t{before} * 16;
  slice.skew = before == 0 ? skew : 0;
  slice.first = before == 0 ? 0 : before * n_of_vector - skew;
  slice.length = at_most(slice.n_vectors * n_of_vector - slice.skew, row.length - slice.first);
  const uint32_t last = row.length > params.n_last ? row.length - params.n_last : 0;
  slice.free_end = last > slice.first ? at_most(last - slice.first, slice.length) : 0;
  slice.free_begin =
      params.n_first > slice.first ? at_most(params.n_first - slice.first, slice.free_end) : 0;
  const uint32_t plain_end = (slice.skew + slice.free_end) / n_of_vector;
  slice.first_plain = (slice.skew + slice.free_begin + n_of_vector - 1) / n_of_vector;
  slice.n_plain = plain_end > slice.first_plain ? plain_end - slice.first_plain : 0;
  return slice;
}

// The keys of a block's slice, which is in shared memory. The first time that all keys are visited,
// as many as there is room for are left on chip, and only the others are read again.
class Keys {
 public:
  __device__ Keys(const SelectTopkParams& params, const Slice& slice, uint4* staged)
      : format{params.element},
        n_vectors(slice.n_vectors),
        slice_(slice),
        memory_(slice.memory),
        first_plain_(slice.first_plain),
        n_plain_(slice.n_plain),
        staged_(staged),
        n_room_(at_most(params.n_staged, n_vectors)) {}

  // All vectors of the slice, each by one thread, of which four are on their way at once.
  template <typename Visit>
  __device__ __forceinline__ void visit(Visit visit) {
    constexpr uint32_t kOnTheirWay = 4;
    const uint32_t n_threads = blockDim.x;
    for (uint32_t from = threadIdx.x; from < n_vectors; from += kOnTheirWay * n_threads) {
      Vector vectors[kOnTheirWay];
#pragma unroll
      for (uint32_t u = 0; u < kOnTheirWay; ++u) vectors[u] = request(from + u * n_threads);
        // Rolled up: what is done with a vector is long.
#pragma unroll 1
      for (uint32_t v = from; v < n_vectors && v - from < kOnTheirWay * n_threads; v += n_threads) {
        const Vector keys = keys_of(vectors[0], v);
        if (v - n_staged_ < n_room_ - n_staged_) {
          const uint32_t(&words)[4] = keys.words;
          staged_[v] = make_uint4(words[0], words[1], words[2], words[3]);
        }
        visit(keys);
#pragma unroll
        for (uint32_t u = 1; u < kOnTheirWay; ++u) vectors[u - 1] = vectors[u];
      }
    }
    n_staged_ = n_room_;
  }

  // What memory has of a vector, ahead of its use; `keys_of` makes keys of it. Zeros past the end.
  __device__ __forceinline__ Vector request(uint32_t v) const {
    if (v < n_staged_) return load_vector(staged_ + v);
    if (v - first_plain_ < n_plain_) {
      // Inner loop: not this way.
      return load_vector(memory_ + uint64_t{v} * 16);
    }
    return {};
  }

  __device__ __forceinline__ Vector keys_of(const Vector& requested, uint32_t v) const {
    if (v < n_staged_) return requested;
    if (v - first_plain_ >= n_plain_) return edge(v);
    Vector keys = {};
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) keys.words[i] = format.stored_of(requested.words[i]);
    return keys;
  }

  // The candidate of the row that has the key of a number.
  __device__ uint32_t index_of(uint32_t v, uint32_t number) const {
    return slice_.first + at(v, format.is_wide() ? number / 2 : number);
  }

  // A byte for each candidate that has a key of the vector, 1 where its number is in `taken`, to
  // where those of the row begin: at once where a whole vector's bytes are a multiple from there.
  __device__ __forceinline__ void mark(uint32_t v, uint32_t taken, uint8_t* kept) const {
    const uint32_t n_of_vector = format.n_of_vector();
    const uint32_t first = at(v, 0);
    uint8_t* const bytes = kept + slice_.first;
    const bool is_whole = first < slice_.length && slice_.length - first >= n_of_vector;
    if (!is_whole || reinterpret_cast<uint64_t>(bytes + first) % n_of_vector != 0) {
#pragma unroll 1
      for (uint32_t e = 0; e < n_of_vector; ++e) {
        const uint32_t number = format.is_wide() ? 2 * e : e;
        if (at(v, e) < slice_.length) bytes[at(v, e)] = static_cast<uint8_t>(taken >> number & 1);
      }
    } else if (format.is_wide()) {
      *reinterpret_cast<uint32_t*>(bytes + first) =
          (taken & 1) | (taken & 4) << 6 | (taken & 16) << 12 | (taken & 64) << 18;
    } else {
      // Bit i of four to the lowest of byte i.
      const auto spread = [](uint32_t four) { return four * 0x00204081 & 0x01010101; };
      *reinterpret_cast<uint2*>(bytes + first) =
          make_uint2(spread(taken & 15), spread(taken >> 4 & 15));
    }
  }

  // The keys that forced candidates would have, each by one thread.
  template <typename Visit>
  __device__ void visit_forced(Visit visit) const {
    const uint32_t begin = slice_.free_begin;
    const uint32_t n_forced = begin + (slice_.length - slice_.free_end);
    for (uint32_t i = threadIdx.x; i < n_forced; i += blockDim.x) {
      visit(format.key_of(score_at(i < begin ? i : slice_.free_end + (i - begin))));
    }
  }

  Format format;
  uint32_t n_vectors;

 private:
  // Large where the row has not begun yet.
  __device__ uint32_t at(uint32_t v, uint32_t e) const {
    return v * format.n_of_vector() + e - slice_.skew;
  }

  // A vector that has something else than plain candidates. Rolled up: it is rare, and everywhere.
  __device__ Vector edge(uint32_t v) const {
    uint64_t low = 0;
    uint64_t high = 0;
    const uint32_t n_bits = format.n_bits();
#pragma unroll 1
    for (uint32_t e = 0; e < format.n_of_vector(); ++e) {
      // Inner loop: not this way.
      low = low >> n_bits | high << (64 - n_bits);
      high = high >> n_bits | uint64_t{stored_at(at(v, e))} << (64 - n_bits);
    }
    return {{static_cast<uint32_t>(low), static_cast<uint32_t>(low >> 32),
             static_cast<uint32_t>(high), static_cast<uint32_t>(high >> 32)}};
  }

  __device__ uint32_t score_at(uint32_t i) const {
    const uint64_t at = uint64_t{slice_.skew} + i;
    if (format.is_wide()) return reinterpret_cast<const uint32_t*>(memory_)[at];
    return reinterpret_cast<const uint16_t*>(memory_)[at];
  }

  __device__ uint32_t stored_at(uint32_t i) const {
    if (i >= slice_.length) return 0;
    if (i < slice_.free_begin || i >= slice_.free_end) return Format::kFirst;
    return format.stored_of(score_at(i));
  }

  const Slice& slice_;
  const uint8_t* memory_;
  uint32_t first_plain_;
  uint32_t n_plain_;
  uint4* staged_;
  uint32_t n_room_;
  uint32_t n_staged_ = 0;
};

}  // namespace

#endif  // LACUNA_SELECT_KEYS_CUH_
