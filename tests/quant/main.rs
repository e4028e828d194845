//! The room `quant`: its format, by the letter.

#[path = "../common/mod.rs"]
mod common;
mod format;
mod golden;
mod import;
mod pages;
mod retier;
mod saliency;
