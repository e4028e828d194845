//! The room `select`: bit for bit the references, on every executor.

#[path = "../common/mod.rs"]
mod common;
mod compact;
mod kv_rows;
mod merge;
mod rows;
mod topk;
