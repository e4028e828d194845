// SPDX-License-Identifier: MIT OR Apache-2.0
// Rows as tiered pages, and back. src/quant/row.rs and src/quant/page.rs are the
// specification.

#include "rows.cuh"

namespace {

struct Page {
  Channels channels;
  uint4 bytes[(kPageTokens * kMostDim + (4 * kPageTokens << kMinimums)) / 16];
};

// Rows as they are; zeros of no row.
__device__ __forceinline__ void copy_rows(const QuantPagesParams& params, const Work& work) {
  const uint32_t n_chunks = params.kv.row_len / 8;
  for (uint32_t i = threadIdx.x; i < kPageTokens * n_chunks; i += kThreads) {
    const uint32_t slot = i / n_chunks;
    const uint8_t* row = find_row_in_slot(params.kv, work, slot);
    uint4 four = make_uint4(0, 0, 0, 0);
    if (row != nullptr) four = reinterpret_cast<const uint4*>(row)[i - slot * n_chunks];
    reinterpret_cast<uint4*>(work.page)[i] = four;
  }
}

// Eight elements of a token, in the cache's type.
__device__ __forceinline__ uint4 read_chunk(const QuantPagesParams& params, const Work& work,
                                            const Order& order, const Page& page, uint32_t slot,
                                            uint32_t channel) {
  const uint32_t bits = bits_of(work.tag);
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(page.bytes);
  const uint8_t* of_tokens = bytes + 8 * params.kv.row_len * bits;
  float s;
  // A sum with -0 is what it was.
  float least = -0.0f;
  int32_t zero = 0;
  if (params.pools.tail == kMinimums) {
    const float* floats = reinterpret_cast<const float*>(of_tokens);
    s = floats[slot];
    least = floats[kPageTokens + slot];
  } else {
    const uint16_t* halves = reinterpret_cast<const uint16_t*>(of_tokens);
    s = from_bf16(halves[slot]);
    zero = static_cast<int32_t>(uint32_t{halves[kPageTokens + slot]} << 16) >> 16;
  }
  float x[8];
#pragma unroll
  for (uint32_t e = 0; e < 8; ++e) {
    const uint32_t c = channel + e;
    const CodePlace place = work.part == 0 ? locate_code(order, work.tag, slot, c)
                                           : locate_code(order, work.tag, c, slot);
    const int32_t code =
        static_cast<int32_t>(uint32_t{bytes[place.byte]} >> place.shift & ((1u << bits) - 1));
    const float steps = __fmul_rn(__int2float_rn(16 * code - zero), 0.0625f);
    const float y = __fmaf_rn(s, steps, least);
    x[e] = __fmaf_rn(y, page.channels.scales[c], page.channels.offsets[c]);
  }
  const uint32_t kind = params.kv.element;
  return make_uint4(to_halves(x[0], x[1], kind), to_halves(x[2], x[3], kind),
                    to_halves(x[4], x[5], kind), to_halves(x[6], x[7], kind));
}

}  // namespace

LACUNA_ENTRY(quantize_pages, QuantPagesParams, kThreads) {
  LACUNA_SHARED(Quantized, shared);
  const Work work = find_work(params);
  if (work.page == nullptr) return;
  if (work.tag == 0) {
    copy_rows(params, work);
    return;
  }
  stage_channels(work, params.kv.row_len, shared.channels);
  __syncthreads();
  constexpr uint32_t kTogether = kThreads / kDotLanes;
  for (uint32_t first = 0; first < kPageTokens; first += kTogether) {
    const uint32_t slot = first + threadIdx.x / kDotLanes;
    const uint8_t* row = find_row_in_slot(params.kv, work, slot);
    quantize_row(work, params.kv.row_len, slot, false, shared, [&](uint32_t channel, float(&y)[8]) {
      if (row != nullptr) load_chunk(shared.channels, row, params.kv.element, channel, y);
    });
  }
  __syncthreads();
  write_codes(work, params.kv.row_len, shared);
}

LACUNA_ENTRY(dequantize_pages, QuantPagesParams, kThreads) {
  LACUNA_SHARED(Page, page);
  const Work work = find_work(params);
  if (work.page == nullptr) return;
  const uint32_t d = params.kv.row_len;
  const uint4* bytes = reinterpret_cast<const uint4*>(work.page);
  if (work.tag != 0) {
    stage_channels(work, d, page.channels);
    const uint32_t n = page_bytes_of(work.tag, d, params.pools.tail) / 16;
    for (uint32_t i = threadIdx.x; i < n; i += kThreads) page.bytes[i] = bytes[i];
    __syncthreads();
  }
  const uint32_t n_chunks = d / 8;
  const Order order(work.tag == 0 ? 1 : work.tag, work.part == 0 ? d : kPageTokens);
  for (uint32_t i = threadIdx.x; i < kPageTokens * n_chunks; i += kThreads) {
    const uint32_t slot = i / n_chunks;
    const uint32_t chunk = i - slot * n_chunks;
    // The launch has it to write.
    uint8_t* row = const_cast<uint8_t*>(find_row_in_slot(params.kv, work, slot));
    if (row == nullptr) continue;
    reinterpret_cast<uint4*>(row)[chunk] =
        work.tag == 0 ? bytes[i] : read_chunk(params, work, order, page, slot, 8 * chunk);
  }
}
