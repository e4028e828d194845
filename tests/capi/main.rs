//! The C interface, as C calls it: the same bits as the Rust calls, in the SIMT executor, and what wrong calls are told.
#![allow(unsafe_code)]

mod attention;
mod c;
#[path = "../common/mod.rs"]
mod common;
mod huffman;
mod quant;
mod select;
mod zeros;
