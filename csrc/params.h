// SPDX-License-Identifier: MIT OR Apache-2.0
// Every launch parameter struct: the one header that the Rust bindings are generated from.
#ifndef LACUNA_PARAMS_H_
#define LACUNA_PARAMS_H_

#include "attention/params.h"
#include "huffman/params.h"
#include "kv.h"
#include "mma/params.h"
#include "quant/params.h"
#include "select/params.h"

#endif  // LACUNA_PARAMS_H_
