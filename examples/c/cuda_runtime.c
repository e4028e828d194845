// SPDX-License-Identifier: MIT OR Apache-2.0
// Beside the CUDA runtime: DF11 groups in memory of cudaMalloc's, expanded on a stream of cudaStreamCreateWithFlags', at once and in a CUDA graph, bit for bit what the
// CPU gives. `cuda_runtime [CHECKPOINT]`; ends with 77 where there is no device or no driver.
#include <cuda_runtime_api.h>

#include "example.h"

#include <string.h>

static void check_cuda(cudaError_t error, const char *call) {
  if (error == cudaSuccess) return;
  fprintf(stderr, "%s: %s: %s\n", call, cudaGetErrorName(error), cudaGetErrorString(error));
  exit(1);
}
#define CUDA(call) check_cuda((call), #call)

// Device memory of the caller's, with what host memory holds, in the order of the stream.
static void *device_copy(const lacuna_bytes *bytes, cudaStream_t stream) {
  void *memory = NULL;
  CUDA(cudaMalloc(&memory, bytes->n_bytes ? bytes->n_bytes : 1));
  CUDA(cudaMemcpyAsync(memory, bytes->data, bytes->n_bytes, cudaMemcpyHostToDevice, stream));
  return memory;
}

static void require_same(const uint16_t *weights, const uint16_t *expected, uint64_t len,
                         const char *what) {
  for (uint64_t idx = 0; idx < len; ++idx) {
    if (weights[idx] == expected[idx]) continue;
    fprintf(stderr, "%s: weight %llu is %#06x, and the CPU's %#06x\n", what,
            (unsigned long long)idx, weights[idx], expected[idx]);
    exit(1);
  }
  printf("%s: %llu weights, bit for bit those of the CPU\n", what, (unsigned long long)len);
}

int main(int argc, char **argv) {
  const char *path = argc > 1 ? argv[1] : "tests/data/df11/qwen3-4b-slice.df11.safetensors";
  lacuna_checkpoint *checkpoint = NULL;
  CHECK(lacuna_checkpoint_open(path, &checkpoint));
  lacuna_stored *stored = NULL;
  CHECK(lacuna_checkpoint_stored(checkpoint, 0, &stored));
  lacuna_stored_facts facts = {.header = LACUNA_HEADER(lacuna_stored_facts)};
  CHECK(lacuna_stored_describe(stored, &facts));
  uint16_t *expected = zeroed(facts.n_elements, sizeof *expected);
  CHECK(lacuna_stored_decode(stored, expected, facts.n_elements, NULL));

  int n_devices = 0;
  const cudaError_t found = cudaGetDeviceCount(&n_devices);
  if (found != cudaSuccess || n_devices == 0) {
    printf("skipped: the CUDA runtime has no device: %s\n",
           found == cudaSuccess ? "there is none" : cudaGetErrorString(found));
    return 77;
  }
  CUDA(cudaSetDevice(0));
  lacuna_device *device = NULL;
  const lacuna_status opened = lacuna_device_open(0, &device);
  if (opened == LACUNA_UNSUPPORTED_DEVICE) {
    printf("skipped: %s\n", lacuna_error_message());
    return 77;
  }
  check(opened, "lacuna_device_open");
  const char *name = NULL;
  CHECK(lacuna_device_name(device, &name));
  printf("on %s\n", name);
  CHECK(lacuna_device_warm_up(device));
  cudaStream_t stream = NULL;
  CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  lacuna_queue *queue = NULL;
  CHECK(lacuna_queue_on_stream(device, stream, &queue));

  // The engine loads the tensors, and lacuna borrows them.
  lacuna_df11_group group = {.header = LACUNA_HEADER(lacuna_df11_group)};
  CHECK(lacuna_stored_df11(stored, &group));
  const lacuna_bytes *tensors[] = {&group.encoded_exponent, &group.sign_mantissa, &group.luts,
                                   &group.gaps, &group.output_positions};
  void *memory[5];
  for (int idx = 0; idx < 5; ++idx) memory[idx] = device_copy(tensors[idx], stream);
  const lacuna_df11_views views = {
      .header = LACUNA_HEADER(lacuna_df11_views),
      .encoded_exponent = VIEW(memory[0], tensors[0]->n_bytes, LACUNA_U8),
      .sign_mantissa = VIEW(memory[1], tensors[1]->n_bytes, LACUNA_U8),
      .luts = VIEW(memory[2], tensors[2]->n_bytes, LACUNA_U8),
      .gaps = VIEW(memory[3], tensors[3]->n_bytes, LACUNA_U8),
      .output_positions = VIEW(memory[4], tensors[4]->n_bytes, LACUNA_U8),
  };
  lacuna_weights *weights = NULL;
  CHECK(lacuna_weights_borrow_df11(queue, &views, 1, &weights));
  lacuna_decode_weights_sizes sizes = {.header = LACUNA_HEADER(lacuna_decode_weights_sizes)};
  CHECK(lacuna_weights_sizes(weights, &sizes));

  const size_t n_output_bytes = sizes.output * sizeof(uint16_t);
  const size_t n_workspace_bytes = sizes.workspace * sizeof(uint64_t);
  void *output = NULL, *workspace = NULL;
  CUDA(cudaMalloc(&output, n_output_bytes));
  CUDA(cudaMalloc(&workspace, n_workspace_bytes));
  CUDA(cudaMemsetAsync(workspace, 0, n_workspace_bytes, stream));
  const lacuna_decode_weights_args args = {
      .header = LACUNA_HEADER(lacuna_decode_weights_args),
      .workspace = VIEW_MUT(workspace, sizes.workspace, LACUNA_U64),
      .output = VIEW_MUT(output, sizes.output, LACUNA_BF16),
  };
  uint16_t *decoded = zeroed(sizes.output, sizeof *decoded);
  uint64_t statuses[2] = {1, 1};

  CHECK(lacuna_decode_weights(queue, weights, &args));
  CUDA(cudaMemcpyAsync(decoded, output, n_output_bytes, cudaMemcpyDeviceToHost, stream));
  CUDA(cudaMemcpyAsync(statuses, workspace, sizeof statuses, cudaMemcpyDeviceToHost, stream));
  CUDA(cudaStreamSynchronize(stream));
  CHECK(lacuna_weights_check_status(statuses[0], statuses[1]));
  require_same(decoded, expected, facts.n_elements, "a launch");

  // The same launch in a graph, twice; nothing runs while it is captured.
  CUDA(cudaMemsetAsync(output, 0, n_output_bytes, stream));
  CUDA(cudaStreamSynchronize(stream));
  CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  CHECK(lacuna_decode_weights(queue, weights, &args));
  cudaGraph_t graph = NULL;
  CUDA(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t executable = NULL;
  CUDA(cudaGraphInstantiateWithFlags(&executable, graph, 0));
  for (int replay = 0; replay < 2; ++replay) {
    CUDA(cudaMemsetAsync(output, 0, n_output_bytes, stream));
    memset(decoded, 0, n_output_bytes);
    CUDA(cudaGraphLaunch(executable, stream));
    CUDA(cudaMemcpyAsync(decoded, output, n_output_bytes, cudaMemcpyDeviceToHost, stream));
    CUDA(cudaStreamSynchronize(stream));
    require_same(decoded, expected, facts.n_elements, "a graph");
  }
  CHECK(lacuna_weights_check(queue, weights, &VIEW(workspace, sizes.workspace, LACUNA_U64)));

  // The runtime's device is what it was.
  int current = -1;
  CUDA(cudaGetDevice(&current));
  if (current != 0) {
    fprintf(stderr, "the current device is %d\n", current);
    return 1;
  }
  CUDA(cudaGraphExecDestroy(executable));
  CUDA(cudaGraphDestroy(graph));
  lacuna_weights_free(weights);
  lacuna_queue_free(queue);
  lacuna_device_free(device);
  CUDA(cudaStreamSynchronize(stream));
  for (int idx = 0; idx < 5; ++idx) CUDA(cudaFree(memory[idx]));
  CUDA(cudaFree(output));
  CUDA(cudaFree(workspace));
  CUDA(cudaStreamDestroy(stream));
  free(decoded);
  free(expected);
  lacuna_stored_free(stored);
  lacuna_checkpoint_free(checkpoint);
  return 0;
}
