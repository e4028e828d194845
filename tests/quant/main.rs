//! The room `quant`: its format, by the letter, and its kernels.

mod append;
mod cache;
mod channels;
#[path = "../common/mod.rs"]
mod common;
mod format;
mod golden;
mod import;
mod pages;
mod retier;
mod saliency;
