//! The room `attention`: bit for bit the references, on every executor.

mod attend;
#[path = "../common/mod.rs"]
mod common;
mod copy;
mod low_rank;
mod merge;
mod prefill;
mod tier;
mod tiered;
