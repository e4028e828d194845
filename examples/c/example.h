// SPDX-License-Identifier: MIT OR Apache-2.0
// What the examples share: a failure ends them with what the library says of it.
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <lacuna.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static inline void check(lacuna_status status, const char *call) {
  if (status == LACUNA_OK) return;
  fprintf(stderr, "%s: %s: %s\n", call, lacuna_status_name(status), lacuna_error_message());
  exit(1);
}
#define CHECK(call) check((call), #call)

// Memory of the queue's: of an engine, device memory; here the executor's, which is the host's.
static inline void *zeroed(uint64_t len, uint64_t element_bytes) {
  void *memory = calloc(len ? len : 1, element_bytes);
  if (!memory) exit(1);
  return memory;
}

#define VIEW(data_, len_, dtype_) ((lacuna_view){.data = (data_), .len = (len_), .dtype = (dtype_)})
#define VIEW_MUT(data_, len_, dtype_) \
  ((lacuna_view_mut){.data = (data_), .len = (len_), .dtype = (dtype_)})

#endif
