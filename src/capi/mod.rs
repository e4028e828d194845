//! The C interface (feature `capi`): what `include/lacuna.h` declares, a skin over the safe calls of the rooms.
//!
//! Everything here is for C. A function takes pointers that the header says it takes, reads structs by the size that their
//! caller gave them, makes [`View`](crate::View)s of memory that the caller owns, and calls the Rust function of the same name; errors
//! become a status and a message of the calling thread. Rust programs use the rooms themselves.
//!
//! `cargo xtask generate` makes the header of these files, by cbindgen.
#![allow(unsafe_code, non_camel_case_types, missing_debug_implementations)]
#![allow(
    clippy::missing_safety_doc,
    reason = "C has no safe functions: the header's head says what holds for all"
)]

mod abi;
mod arena;
mod attention;
mod device;
mod dtype;
mod huffman;
mod kv;
mod quant;
mod select;
mod status;
mod view;

pub use abi::*;
pub use arena::*;
pub use attention::*;
pub use device::*;
pub use dtype::*;
pub use huffman::*;
pub use kv::*;
pub use quant::*;
pub use select::*;
pub use status::*;
pub use view::*;
