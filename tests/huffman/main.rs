//! The room `huffman`: formats and laws of what encodes and decodes on the CPU, and the kernels.

#[path = "../common/mod.rs"]
mod common;
mod compact;
mod decode;
mod encode;
mod indexed;
mod lane;
mod law;
mod transcode;
