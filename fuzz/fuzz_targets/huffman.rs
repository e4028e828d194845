//! The properties of the room `huffman`: its kernels in the SIMT executor on any data that they trust no one
//! for, and laws of its formats (but those of DF11's encoder, whose weights take seconds).
#![no_main]
#![allow(unused, reason = "of the tests, the properties alone run")]
#![allow(clippy::duplicate_mod, reason = "`common` has the tests' numbers, and the fuzzer's")]

extern crate lacuna_fuzz as proptest;

#[path = "../src/common.rs"]
mod common;
#[path = "../../tests/huffman/compact/mod.rs"]
mod compact;
#[path = "../../tests/huffman/decode.rs"]
mod decode;
#[path = "../../tests/huffman/encode.rs"]
mod encode;
#[path = "../../tests/huffman/indexed/mod.rs"]
mod indexed;
#[path = "../../tests/huffman/lane/mod.rs"]
mod lane;
#[path = "../../tests/huffman/transcode.rs"]
mod transcode;

use lacuna_fuzz::{run_property, use_one_thread};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: use_one_thread(), |bytes: &[u8]| run_property(bytes));
