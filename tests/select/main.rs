//! The room `select`: bit for bit the references, on every executor.

#[path = "../common/mod.rs"]
mod common;
mod gate;
mod summarize;
mod topk;
