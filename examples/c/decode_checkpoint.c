// SPDX-License-Identifier: MIT OR Apache-2.0
// A checkpoint from disk to bf16 weights, group by group, in whichever format: `decode_checkpoint [CHECKPOINT]`. Decoded on the CPU, and by the kernels in the
// SIMT executor, bit for bit the same; on a GPU the queue is of the engine's stream, and memory is cudaMalloc's: cuda_runtime.c.
#include "example.h"

#include <assert.h>
#include <string.h>

static const char *const FORMATS[] = {"DF11", "compact", "lane"};

static void decode(const lacuna_queue *queue, const lacuna_weights *weights, uint16_t *output) {
  lacuna_decode_weights_sizes sizes = {.header = LACUNA_HEADER(lacuna_decode_weights_sizes)};
  CHECK(lacuna_weights_sizes(weights, &sizes));
  uint64_t *workspace = zeroed(sizes.workspace, sizeof *workspace);
  const lacuna_decode_weights_args args = {
      .header = LACUNA_HEADER(lacuna_decode_weights_args),
      .workspace = VIEW_MUT(workspace, sizes.workspace, LACUNA_U64),
      .output = VIEW_MUT(output, sizes.output, LACUNA_BF16),
  };
  CHECK(lacuna_decode_weights(queue, weights, &args));
  // Who has synchronised anyway looks at the two statuses by himself.
  CHECK(lacuna_weights_check_status(workspace[0], workspace[1]));
  CHECK(lacuna_weights_check(queue, weights, &VIEW(workspace, sizes.workspace, LACUNA_U64)));
  free(workspace);
}

// DF11 and compact groups: as they are, and by an index, which is in a compact group's file, and is made of DF11 on the device.
static void decode_weights(const lacuna_queue *queue, const lacuna_stored *stored,
                           uint64_t n_elements, uint16_t *output) {
  lacuna_weights *weights = NULL;
  CHECK(lacuna_weights_upload_stored(queue, &stored, 1, &weights));
  decode(queue, weights, output);
  uint16_t *first = zeroed(n_elements, sizeof *first);
  memcpy(first, output, n_elements * sizeof *first);
  memset(output, 0, n_elements * sizeof *output);
  CHECK(lacuna_weights_index(queue, weights));
  decode(queue, weights, output);
  assert(memcmp(first, output, n_elements * sizeof *output) == 0);
  lacuna_weights_free(weights);
  free(first);
}

// A matrix: unpacked here; `lacuna_multiply_lane` multiplies it as it is.
static void unpack_lane(const lacuna_queue *queue, const lacuna_stored *stored, uint16_t *output) {
  lacuna_lane_tensors tensors = {.header = LACUNA_HEADER(lacuna_lane_tensors)};
  CHECK(lacuna_stored_lane(stored, &tensors));
  lacuna_device_lane *lane = NULL;
  CHECK(lacuna_device_lane_upload(queue, &tensors, &lane));
  lacuna_lane_views planes = {.header = LACUNA_HEADER(lacuna_lane_views)};
  CHECK(lacuna_device_lane_views(lane, &planes));
  const lacuna_unpack_lane_shape shape = {
      .header = LACUNA_HEADER(lacuna_unpack_lane_shape),
      .n_rows = planes.n_rows,
      .n_columns = planes.n_columns,
  };
  lacuna_unpack_lane_plan *plan = NULL;
  CHECK(lacuna_unpack_lane_plan_new(&shape, &plan));
  const lacuna_unpack_lane_args args = {
      .header = LACUNA_HEADER(lacuna_unpack_lane_args),
      .planes = &planes,
      .output = VIEW_MUT(output, planes.n_rows * planes.n_columns, LACUNA_BF16),
  };
  CHECK(lacuna_unpack_lane(queue, plan, &args));
  lacuna_unpack_lane_plan_free(plan);
  lacuna_device_lane_free(lane);
}

static void decode_checkpoint(const lacuna_queue *queue, const char *path) {
  lacuna_checkpoint *checkpoint = NULL;
  CHECK(lacuna_checkpoint_open(path, &checkpoint));
  lacuna_checkpoint_facts facts = {.header = LACUNA_HEADER(lacuna_checkpoint_facts)};
  CHECK(lacuna_checkpoint_describe(checkpoint, &facts));
  printf("%s: %llu groups, %llu other tensors\n", path, (unsigned long long)facts.n_groups,
         (unsigned long long)facts.n_plain);
  for (uint64_t idx = 0; idx < facts.n_groups; ++idx) {
    lacuna_stored *stored = NULL;
    CHECK(lacuna_checkpoint_stored(checkpoint, idx, &stored));
    lacuna_stored_facts group = {.header = LACUNA_HEADER(lacuna_stored_facts)};
    CHECK(lacuna_stored_describe(stored, &group));
    uint16_t *expected = zeroed(group.n_elements, sizeof *expected);
    uint32_t is_verified = 0;
    CHECK(lacuna_stored_decode(stored, expected, group.n_elements, &is_verified));

    uint16_t *output = zeroed(group.n_elements, sizeof *output);
    if (group.format == LACUNA_FORMAT_LANE) {
      unpack_lane(queue, stored, output);
    } else {
      decode_weights(queue, stored, group.n_elements, output);
    }
    if (memcmp(output, expected, group.n_elements * sizeof *output) != 0) {
      fprintf(stderr, "%s: the kernels give other bits than the CPU\n", group.name);
      exit(1);
    }
    printf("%s: %s, %llu weights in %llu bytes, %s\n", group.name, FORMATS[group.format],
           (unsigned long long)group.n_elements, (unsigned long long)group.n_bytes,
           is_verified ? "of the file's checksum" : "the file has no checksum");
    for (uint64_t place = 0; place < group.n_matrices; ++place) {
      lacuna_matrix matrix = {.header = LACUNA_HEADER(lacuna_matrix)};
      CHECK(lacuna_stored_matrix(stored, place, &matrix));
      printf("  %s: weights %llu to %llu\n", matrix.name, (unsigned long long)matrix.start,
             (unsigned long long)matrix.end);
    }
    free(output);
    free(expected);
    lacuna_stored_free(stored);
  }
  lacuna_checkpoint_free(checkpoint);
}

int main(int argc, char **argv) {
  lacuna_queue *queue = NULL;
  CHECK(lacuna_queue_simt(&queue));
  decode_checkpoint(queue, argc > 1 ? argv[1] : "tests/data/df11/qwen3-4b-slice.df11.safetensors");
  lacuna_queue_free(queue);
  return 0;
}
