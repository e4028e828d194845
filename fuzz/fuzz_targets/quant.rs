//! The properties of the room `quant`: its kernels in the SIMT executor on any data that they trust no one
//! for, and its laws.
#![no_main]
#![allow(unused, reason = "of the tests, the properties alone run")]
#![allow(clippy::duplicate_mod, reason = "`common` has the tests' numbers, and the fuzzer's")]

extern crate lacuna_fuzz as proptest;

#[path = "../../tests/quant/append/mod.rs"]
mod append;
#[path = "../../tests/quant/cache.rs"]
mod cache;
#[path = "../../tests/quant/channels/mod.rs"]
mod channels;
#[path = "../src/common.rs"]
mod common;
#[path = "../../tests/quant/format.rs"]
mod format;
#[path = "../../tests/quant/golden.rs"]
mod golden;
#[path = "../../tests/quant/import/mod.rs"]
mod import;
#[path = "../../tests/quant/pages/mod.rs"]
mod pages;
#[path = "../../tests/quant/retier/mod.rs"]
mod retier;
#[path = "../../tests/quant/saliency/mod.rs"]
mod saliency;

use lacuna_fuzz::{run_property, use_one_thread};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: use_one_thread(), |bytes: &[u8]| run_property(bytes));
