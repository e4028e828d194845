// SPDX-License-Identifier: MIT OR Apache-2.0
// Rows that each stand for several keys: the least and the greatest number of each channel, or the
// mean and how far the keys point away from it. Each is made anew from all of its keys, in their
// order, so that it is the same however they came. src/select/summarize/reference.rs is the
// specification.

#include "outlier.cuh"
#include "summary.cuh"

namespace {

constexpr uint32_t kThreads = 256;
// Rows whose loads a thread begins before it takes the first.
constexpr uint32_t kAhead = 4;

enum Mode : uint32_t { kBox = 0, kMean = 1, kMeanAndOutlier = 2, kBoxOfBoxes = 3 };

// Elements `8 v` to `8 v + 7` of each row of the task that is there, in the order of the rows.
template <typename Taker>
__device__ void visit_rows(const LacunaKvView& kv, const Task& task, uint32_t v, Taker& taker) {
  const int32_t* table = kv.page_table + task.b * kv.table_stride;
  const uint64_t offset = task.h * kv.head_stride + 8 * v;
  uint32_t last_page = ~0u;
  int32_t physical = -1;
  for (uint32_t t = task.first; t < task.end; t += kAhead) {
    // A page's number is read once, and no read of one waits for another.
    uint32_t pages[kAhead];
    int32_t found[kAhead];
#pragma unroll
    for (uint32_t i = 0; i < kAhead; ++i) {
      const uint32_t row = task.end - t > i ? t + i : task.end - 1;
      pages[i] = static_cast<uint32_t>(row * kv.page_multiplier >> 34);
      found[i] = pages[i] != (i == 0 ? last_page : pages[i - 1]) ? table[pages[i]] : 0;
    }
    uint32_t words[kAhead][4];
    bool is_here[kAhead];
#pragma unroll
    for (uint32_t i = 0; i < kAhead; ++i) {
      if (pages[i] != (i == 0 ? last_page : pages[i - 1])) physical = found[i];
      is_here[i] = task.end - t > i && static_cast<uint32_t>(physical) < kv.n_pages;
      if (!is_here[i]) continue;
      const uint32_t in_page = t + i - pages[i] * kv.page_size;
      const uint64_t at =
          static_cast<uint32_t>(physical) * kv.page_stride + in_page * kv.token_stride + offset;
      load_bits(words[i], kv.keys, at, kv.element);
    }
    last_page = pages[kAhead - 1];
#pragma unroll
    for (uint32_t i = 0; i < kAhead; ++i) {
      if (is_here[i]) taker.take(words[i]);
    }
  }
}

// Ascends with the number whose bits lead the word, -0 below +0; NaN lies past the infinities.
// Twice it is nothing.
__device__ int32_t order_of(uint32_t leading) {
  const int32_t word = static_cast<int32_t>(leading);
  return word ^ (word >> 31 & 0x7FFFFFFF);
}

// Element `i` of eight, in the leading bits.
template <bool kIsByte>
__device__ uint32_t lead(const uint32_t (&words)[4], uint32_t i) {
  if (kIsByte) return words[i / 4] << (24 - 8 * (i % 4)) & 0xFF000000;
  return i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xFFFF0000;
}

// The greatest number that is finite, and the greatest that is no NaN, as `order_of` has them.
__device__ int32_t most_finite(uint32_t kind) {
  return kind == kFloatBf16   ? 0x7F7F0000
         : kind == kFloatE5m2 ? 0x7B000000
         : kind == kFloatF16  ? 0x7BFF0000
                              : 0x7E000000;
}

__device__ int32_t most_ordered(uint32_t kind) {
  return kind == kFloatBf16 ? 0x7F800000 : kind == kFloatE4m3 ? 0x7E000000 : 0x7C000000;
}

// The bits, as a summary of type `to`, of a number of type `kind`; boxes are finite.
__device__ uint32_t bound(int32_t order, uint32_t kind, uint32_t to) {
  const int32_t most = most_finite(kind);
  const int32_t finite = order > most ? most : order < ~most ? ~most : order;
  const uint32_t word = static_cast<uint32_t>(order_of(static_cast<uint32_t>(finite)));
  if (kind < kFloatE4m3) return word >> 16;
  return to_half(kind == kFloatE4m3 ? from_e4m3(word >> 24) : from_e5m2(word >> 24), to);
}

constexpr int32_t kLeastOrder = -0x7FFFFFFF - 1;
constexpr int32_t kMostOrder = 0x7FFFFFFF;
constexpr uint32_t kHalfNan = 0x7FFF;

template <bool kIsByte>
struct Box {
  uint32_t kind;
  int32_t least[8];
  int32_t most[8];

  __device__ explicit Box(uint32_t kind_) : kind(kind_) {
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      least[i] = kMostOrder;
      most[i] = kLeastOrder;
    }
  }

  __device__ void take(const uint32_t (&words)[4]) {
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      const int32_t order = order_of(lead<kIsByte>(words, i));
      least[i] = order < least[i] ? order : least[i];
      most[i] = order > most[i] ? order : most[i];
    }
  }

  __device__ void store(uint8_t* rows, uint64_t element, uint32_t row_len, uint32_t to) const {
    uint32_t low[8];
    uint32_t high[8];
    const int32_t ordered = most_ordered(kind);
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      // NaN may be any number.
      const bool has_nan = most[i] > ordered || least[i] < ~ordered;
      low[i] = bound(has_nan ? kLeastOrder : least[i], kind, to);
      high[i] = bound(has_nan ? kMostOrder : most[i], kind, to);
      if (least[i] > most[i]) low[i] = high[i] = kHalfNan;
    }
    store_row(rows, element, low);
    store_row(rows, element + row_len, high);
  }
};

// One half of boxes: the least of their least numbers, or the greatest of their greatest. NaN is a
// box of nothing.
struct HalfBox {
  uint32_t kind;
  bool is_most;
  int32_t orders[8];

  __device__ HalfBox(uint32_t kind_, bool is_most_) : kind(kind_), is_most(is_most_) {
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) orders[i] = is_most ? kLeastOrder : kMostOrder;
  }

  __device__ void take(const uint32_t (&words)[4]) {
    const int32_t ordered = most_ordered(kind);
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      const int32_t order = order_of(lead<false>(words, i));
      const bool is_better = is_most ? order > orders[i] : order < orders[i];
      if (is_better && order <= ordered && order >= ~ordered) orders[i] = order;
    }
  }

  __device__ void store(uint8_t* rows, uint64_t element) const {
    uint32_t bits[8];
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      const bool is_empty = orders[i] == (is_most ? kLeastOrder : kMostOrder);
      bits[i] = is_empty ? kHalfNan : bound(orders[i], kind, kind);
    }
    store_row(rows, element, bits);
  }
};

struct Mean {
  uint32_t kind;
  uint32_t n;
  float sums[8];

  __device__ explicit Mean(uint32_t kind_) : kind(kind_), n(0) {
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) sums[i] = 0.0f;
  }

  __device__ void take(uint32_t (&words)[4]) {
    if (kind >= kFloatE4m3) widen_fp8(words, kind);
    float values[8];
    expand_floats(values, words, kind);
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) sums[i] = __fadd_rn(sums[i], values[i]);
    n += 1;
  }

  __device__ void store(uint8_t* rows, uint64_t element, uint32_t to) const {
    // Of nothing it is 0 times infinity.
    const float share = __fdiv_rn(1.0f, static_cast<float>(n));
    uint32_t bits[8];
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) bits[i] = to_half(__fmul_rn(sums[i], share), to);
    store_row(rows, element, bits);
  }
};

// A thread has eight channels of a summary.
__device__ void summarize_channels(const SelectSummarizeParams& params, const Span& span,
                                   uint32_t b) {
  const LacunaKvView& keys = params.keys;
  const uint32_t to = params.summaries.element;
  const uint32_t n_vectors = keys.row_len / 8;
  const uint32_t n_columns = n_vectors * keys.n_heads;
  Cursor cursor(n_columns, blockIdx.x * kThreads + threadIdx.x, gridDim.x * kThreads);
  for (; cursor.idx < span.n; cursor.advance()) {
    const uint32_t h = cursor.column / n_vectors;
    const uint32_t v = cursor.column - h * n_vectors;
    const Task task = find_task(params, span, b, h, span.first + cursor.idx);
    if (task.at == kNoRow) continue;
    const uint64_t at = task.at + 8 * v;
    if (params.mode == kMean) {
      Mean mean(keys.element);
      visit_rows(keys, task, v, mean);
      mean.store(params.rows, at, to);
    } else if (params.mode == kBox && keys.element >= kFloatE4m3) {
      Box<true> box(keys.element);
      visit_rows(keys, task, v, box);
      box.store(params.rows, at, keys.row_len, to);
    } else if (params.mode == kBox) {
      Box<false> box(keys.element);
      visit_rows(keys, task, v, box);
      box.store(params.rows, at, keys.row_len, to);
    } else {
      HalfBox box(keys.element, v >= n_vectors / 2);
      visit_rows(keys, task, v, box);
      box.store(params.rows, at);
    }
  }
}

}  // namespace

LACUNA_ENTRY(summarize, SelectSummarizeParams, kThreads) {
  LACUNA_DYNAMIC_SHARED(dynamic);
  const uint32_t b = blockIdx.y;
  if (b >= params.keys.batch) return;
  const Span span = find_span(params, b);
  if (params.mode == kMeanAndOutlier) {
    summarize_chunks(params, span, b, dynamic);
  } else {
    summarize_channels(params, span, b);
  }
}
