// SPDX-License-Identifier: MIT OR Apache-2.0
// The weights that softmaxes give to each token, over heads. src/select/vote/reference.rs is the
// specification.

#include "../common/kv.cuh"
#include "softmax.cuh"

namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kHeadsAtOnce = 64;

struct Shared {
  SelectSoftmax softmaxes[kHeadsAtOnce];
};

}  // namespace

LACUNA_ENTRY(vote_rows, SelectVoteParams, kThreads) {
  LACUNA_SHARED(Shared, shared);
  const uint32_t b = blockIdx.z;
  if (params.skips != nullptr && params.skips[b] != 0) return;
  const uint32_t t = blockIdx.x * kThreads + threadIdx.x;
  const uint32_t n_rows = rows_of(params.lengths[b], params.tokens_per_row);
  const bool has_row = t < params.n && t < params.n_rows && t < n_rows;
  const uint32_t first = b * params.n_q_heads + blockIdx.y * params.n_together;
  float vote = 0.0f;
  for (uint32_t base = 0; base < params.n_together; base += kHeadsAtOnce) {
    const uint32_t n_left = params.n_together - base;
    const uint32_t n = n_left < kHeadsAtOnce ? n_left : kHeadsAtOnce;
    if (base != 0) __syncthreads();
    if (threadIdx.x < n) {
      shared.softmaxes[threadIdx.x] = params.softmaxes[first + base + threadIdx.x];
    }
    __syncthreads();
    for (uint32_t i = 0; i < n && has_row; ++i) {
      const uint64_t at = (first + base + i) * params.score_stride + t;
      const float score = load_float(params.scores, at, params.score_element);
      vote =
          add_vote(vote, score, shared.softmaxes[i], params.softmax_scale, params.vote_reduction);
    }
  }
  if (!has_row) return;
  const uint64_t row = uint64_t{b} * (params.n_q_heads / params.n_together) + blockIdx.y;
  store_float(params.votes, row * params.vote_stride + t, params.vote_element, vote);
}
