//! The properties of the room `select`: its kernels in the SIMT executor on any data that they trust no one
//! for, and its laws.
#![no_main]
#![allow(unused, reason = "of the tests, the properties alone run")]
#![allow(clippy::duplicate_mod, reason = "`common` has the tests' numbers, and the fuzzer's")]

extern crate lacuna_fuzz as proptest;

#[path = "../src/common.rs"]
mod common;
#[path = "../../tests/select/compact.rs"]
mod compact;
#[path = "../../tests/select/gate.rs"]
mod gate;
#[path = "../../tests/select/kv_rows.rs"]
mod kv_rows;
#[path = "../../tests/select/mass/mod.rs"]
mod mass;
#[path = "../../tests/select/merge.rs"]
mod merge;
#[path = "../../tests/select/rows.rs"]
mod rows;
#[path = "../../tests/select/score/mod.rs"]
mod score;
#[path = "../../tests/select/summarize/mod.rs"]
mod summarize;
#[path = "../../tests/select/topk/mod.rs"]
mod topk;

pub(crate) use score::problem as score_problem;

use lacuna_fuzz::{run_property, use_one_thread};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: use_one_thread(), |bytes: &[u8]| run_property(bytes));
