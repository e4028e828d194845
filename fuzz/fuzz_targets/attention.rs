//! The properties of the room `attention`: its kernels in the SIMT executor on any data that they trust no one
//! for, and its laws.
#![no_main]
#![allow(unused, reason = "of the tests, the properties alone run")]
#![allow(clippy::duplicate_mod, reason = "`common` has the tests' numbers, and the fuzzer's")]

extern crate lacuna_fuzz as proptest;

#[path = "../../tests/attention/attend/mod.rs"]
mod attend;
#[path = "../src/common.rs"]
mod common;
#[path = "../../tests/attention/copy/mod.rs"]
mod copy;
#[path = "../../tests/attention/low_rank/mod.rs"]
mod low_rank;
#[path = "../../tests/attention/merge/mod.rs"]
mod merge;
#[path = "../../tests/attention/prefill/mod.rs"]
mod prefill;
#[path = "../../tests/attention/tier/mod.rs"]
mod tier;
#[path = "../../tests/attention/tiered/mod.rs"]
mod tiered;

use lacuna_fuzz::{run_property, use_one_thread};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: use_one_thread(), |bytes: &[u8]| run_property(bytes));
