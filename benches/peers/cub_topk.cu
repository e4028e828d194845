// SPDX-License-Identifier: MIT OR Apache-2.0
// Times CUB's top-k of bf16 rows on a GPU, as benches/house/measure.rs times ours. CUB is the
// headers that the compiler is given: nothing of it is here.
//
// usage: cub_topk N_ROWS N K N_SETS SCORES
//
// SCORES is a file of N_ROWS x N bf16 numbers. On N_SETS copies of them in turn, so that none is in
// a cache, in one CUDA graph: the median of 40 samples of at least 2 ms by the device's events.
// Prints one line of JSON: {"us", "version"}, or {"why"} there is no time. What does not pick the k
// largest values, as a sort finds them, or not where it says, has none. Keys and indices are both
// picked, as torch.topk picks them.
//
// Rows of up to 4,096 are picked by one call of DeviceBatchedTopK where CUB has it (3.5.0), since
// it takes no longer rows than a block holds; others by a call of DeviceTopK (3.2.0) each, and 16
// of those side by side in the graph.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cub/version.cuh>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#if __has_include(<cub/device/device_topk.cuh>)
#define HAS_TOPK
#include <cub/device/device_topk.cuh>
#include <cuda/iterator>
#include <cuda/std/execution>
#include <cuda/stream_ref>
#endif
#if __has_include(<cub/device/device_batched_topk.cuh>)
#define HAS_BATCHED_TOPK
#include <cub/device/device_batched_topk.cuh>
#endif

namespace {

std::string version() {
  return "CUB " + std::to_string(CUB_VERSION / 100000) + "." +
         std::to_string(CUB_VERSION / 100 % 1000) + "." + std::to_string(CUB_VERSION % 100);
}

[[noreturn]] void give_up(const std::string& why) { throw std::runtime_error(why); }

struct Problem {
  uint32_t n_rows;
  uint32_t n;
  uint32_t k;
  uint32_t n_sets;
  std::vector<__nv_bfloat16> scores;
};

std::vector<__nv_bfloat16> read_scores(const char* path, uint64_t n) {
  std::vector<__nv_bfloat16> scores(n);
  std::FILE* file = std::fopen(path, "rb");
  if (file == nullptr) give_up(std::string("no file ") + path);
  const bool is_whole = std::fread(scores.data(), sizeof(scores[0]), n, file) == n;
  std::fclose(file);
  if (!is_whole) give_up(std::string(path) + " is too short");
  return scores;
}

#ifdef HAS_TOPK

constexpr uint32_t kMostBranches = 16;

void check(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  const std::string text = call;
  give_up(text.substr(0, text.find('(')) + ": " + cudaGetErrorString(code));
}
#define CHECK(call) check(call, #call)

// Lives as long as the process.
template <typename T>
T* allocate(uint64_t n) {
  void* memory = nullptr;
  CHECK(cudaMalloc(&memory, std::max<uint64_t>(n, 1) * sizeof(T)));
  return static_cast<T*>(memory);
}

// One copy of the rows, and what is picked of it.
struct Set {
  __nv_bfloat16* scores;
  __nv_bfloat16* keys;
  int32_t* indices;
};

struct Branch {
  cudaStream_t stream;
  cudaEvent_t end;
  void* workspace;
};

// The call that asks how large its workspace is where that is null.
using Pick = std::function<cudaError_t(void*, size_t&, const Set&, uint32_t, cudaStream_t)>;

cudaError_t pick_row(const Problem& problem, void* workspace, size_t& n_bytes, const Set& set,
                     uint32_t row, cudaStream_t stream) {
  namespace execution = cuda::execution;
  const uint64_t from = uint64_t{row} * problem.n;
  const uint64_t to = uint64_t{row} * problem.k;
  const auto asked = execution::require(execution::determinism::not_guaranteed,
                                        execution::output_ordering::unsorted);
  const auto environment = cuda::std::execution::env{cuda::stream_ref{stream}, asked};
  return cub::DeviceTopK::MaxPairs(workspace, n_bytes, set.scores + from, set.keys + to,
                                   cuda::counting_iterator<int32_t>{0}, set.indices + to, problem.n,
                                   problem.k, environment);
}

#ifdef HAS_BATCHED_TOPK

constexpr int32_t kMostBatched = 4096;

template <typename T>
struct RowOf {
  T* first;
  uint32_t stride;
  __host__ __device__ T* operator()(uint32_t row) const { return first + uint64_t{row} * stride; }
};

template <typename T>
auto rows_of(T* first, uint32_t stride) {
  return cuda::transform_iterator(cuda::counting_iterator<uint32_t>{0}, RowOf<T>{first, stride});
}

cudaError_t pick_rows(const Problem& problem, void* workspace, size_t& n_bytes, const Set& set,
                      cudaStream_t stream) {
  namespace execution = cuda::execution;
  namespace args = cuda::args;
  const auto asked =
      execution::require(execution::determinism::not_guaranteed, execution::tie_break::unspecified,
                         execution::output_ordering::unsorted);
  const auto environment = cuda::std::execution::env{cuda::stream_ref{stream}, asked};
  const auto n = static_cast<int32_t>(problem.n);
  const auto k = static_cast<int32_t>(problem.k);
  return cub::DeviceBatchedTopK::MaxPairs(
      workspace, n_bytes, rows_of<const __nv_bfloat16>(set.scores, problem.n),
      rows_of(set.keys, problem.k),
      cuda::constant_iterator<cuda::counting_iterator<int32_t>>{
          cuda::counting_iterator<int32_t>{0}},
      rows_of(set.indices, problem.k), args::immediate{n, args::bounds<1, kMostBatched>()},
      args::immediate{k, args::bounds<1, kMostBatched>()}, args::immediate{problem.n_rows},
      environment);
}

#endif  // HAS_BATCHED_TOPK

void compare_picks(const Problem& problem, const Set& set) {
  std::vector<__nv_bfloat16> keys(uint64_t{problem.n_rows} * problem.k);
  std::vector<int32_t> indices(keys.size());
  CHECK(cudaMemcpy(keys.data(), set.keys, keys.size() * sizeof(keys[0]), cudaMemcpyDefault));
  CHECK(cudaMemcpy(indices.data(), set.indices, indices.size() * 4, cudaMemcpyDefault));
  const auto sorted = [](const __nv_bfloat16* first, uint32_t n) {
    std::vector<float> values(n);
    std::transform(first, first + n, values.begin(),
                   [](auto key) { return __bfloat162float(key); });
    std::sort(values.begin(), values.end(), std::greater<>());
    return values;
  };
  for (uint32_t row = 0; row < problem.n_rows; ++row) {
    const __nv_bfloat16* scores = problem.scores.data() + uint64_t{row} * problem.n;
    const uint64_t first = uint64_t{row} * problem.k;
    std::vector<float> expected = sorted(scores, problem.n);
    expected.resize(problem.k);
    if (sorted(keys.data() + first, problem.k) != expected)
      give_up("it does not pick the k largest");
    std::vector<bool> is_picked(problem.n);
    for (uint64_t i = first; i < first + problem.k; ++i) {
      const auto at = static_cast<uint32_t>(indices[i]);
      const bool is_new = at < problem.n && !is_picked[at];
      if (!is_new || __bfloat162float(scores[at]) != __bfloat162float(keys[i])) {
        give_up("its indices are not those of its picks");
      }
      is_picked[at] = true;
    }
  }
}

// Microseconds of one set, and how it was picked.
double measure(const Problem& problem, std::string& how) {
  Pick pick = [&](void* workspace, size_t& n_bytes, const Set& set, uint32_t row,
                  cudaStream_t stream) {
    return pick_row(problem, workspace, n_bytes, set, row, stream);
  };
  uint32_t n_calls = problem.n_rows;
  how = "DeviceTopK";
#ifdef HAS_BATCHED_TOPK
  if (problem.n <= kMostBatched) {
    pick = [&](void* workspace, size_t& n_bytes, const Set& set, uint32_t, cudaStream_t stream) {
      return pick_rows(problem, workspace, n_bytes, set, stream);
    };
    n_calls = 1;
    how = "DeviceBatchedTopK";
  }
#endif
  const uint32_t n_branches = std::min(n_calls, kMostBranches);
  if (n_calls > 1) {
    how += " for each row, " + std::to_string(n_branches) + " side by side";
  }

  std::vector<Set> sets(problem.n_sets);
  for (Set& set : sets) {
    set.scores = allocate<__nv_bfloat16>(problem.scores.size());
    set.keys = allocate<__nv_bfloat16>(uint64_t{problem.n_rows} * problem.k);
    set.indices = allocate<int32_t>(uint64_t{problem.n_rows} * problem.k);
    CHECK(cudaMemcpy(set.scores, problem.scores.data(), problem.scores.size() * 2,
                     cudaMemcpyDefault));
  }
  std::vector<Branch> branches(n_branches);
  size_t n_bytes = 0;
  CHECK(pick(nullptr, n_bytes, sets[0], 0, nullptr));
  for (Branch& branch : branches) {
    CHECK(cudaStreamCreateWithFlags(&branch.stream, cudaStreamNonBlocking));
    CHECK(cudaEventCreateWithFlags(&branch.end, cudaEventDisableTiming));
    branch.workspace = allocate<uint8_t>(n_bytes);
  }
  cudaEvent_t fork = nullptr;
  CHECK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
  const cudaStream_t stream = branches[0].stream;

  const auto pick_all = [&] {
    for (const Set& set : sets) {
      CHECK(cudaEventRecord(fork, stream));
      for (uint32_t b = 1; b < n_branches; ++b) {
        CHECK(cudaStreamWaitEvent(branches[b].stream, fork, 0));
      }
      for (uint32_t call = 0; call < n_calls; ++call) {
        const Branch& branch = branches[call % n_branches];
        CHECK(pick(branch.workspace, n_bytes, set, call, branch.stream));
      }
      for (uint32_t b = 1; b < n_branches; ++b) {
        CHECK(cudaEventRecord(branches[b].end, branches[b].stream));
        CHECK(cudaStreamWaitEvent(stream, branches[b].end, 0));
      }
    }
  };
  pick_all();
  CHECK(cudaStreamSynchronize(stream));
  compare_picks(problem, sets.back());

  // Indices that are none, so that the replays' own are compared.
  CHECK(cudaMemset(sets.front().indices, 0xFF, uint64_t{problem.n_rows} * problem.k * 4));
  CHECK(cudaDeviceSynchronize());
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  pick_all();
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t start = nullptr;
  cudaEvent_t end = nullptr;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&end));
  const auto sample = [&](uint32_t n_runs) {
    CHECK(cudaEventRecord(start, stream));
    for (uint32_t i = 0; i < n_runs; ++i) CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaEventRecord(end, stream));
    CHECK(cudaEventSynchronize(end));
    float time_ms = 0;
    CHECK(cudaEventElapsedTime(&time_ms, start, end));
    return 1000.0 * time_ms;
  };
  sample(1);
  const auto n_runs =
      static_cast<uint32_t>(std::min(2000.0 / std::max(sample(1), 0.1) + 1, 10'000.0));
  std::vector<double> samples(40);
  for (double& time_us : samples) time_us = sample(n_runs);
  std::sort(samples.begin(), samples.end());
  compare_picks(problem, sets.front());
  return samples[19] / n_runs / problem.n_sets;
}

#else

double measure(const Problem&, std::string&) {
  give_up(version() + " has no DeviceTopK; LACUNA_CCCL may name newer headers");
}

#endif  // HAS_TOPK

}  // namespace

int main(int n_arguments, char** arguments) {
  if (n_arguments != 6) {
    std::fprintf(stderr, "usage: cub_topk N_ROWS N K N_SETS SCORES\n");
    return 1;
  }
  try {
    uint32_t sizes[4];
    for (int i = 0; i < 4; ++i) {
      sizes[i] = static_cast<uint32_t>(std::strtoul(arguments[i + 1], nullptr, 10));
    }
    const auto [n_rows, n, k, n_sets] = sizes;
    if (n_rows == 0 || n_sets == 0 || k == 0 || k > n || n > INT32_MAX) give_up("no such sizes");
    const Problem problem = {n_rows, n, k, n_sets, read_scores(arguments[5], uint64_t{n_rows} * n)};
    std::string how;
    const double time_us = measure(problem, how);
    std::printf("{\"us\": %.4f, \"version\": \"%s, %s, graph replays\"}\n", time_us,
                version().c_str(), how.c_str());
  } catch (const std::exception& error) {
    std::string why = error.what();
    std::replace(why.begin(), why.end(), '"', '\'');
    std::printf("{\"why\": \"%s\"}\n", why.c_str());
  }
  return 0;
}
