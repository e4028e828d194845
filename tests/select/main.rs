//! The room `select`: bit for bit the references, on every executor.

#[path = "../common/mod.rs"]
mod common;
mod compact;
mod gate;
mod kv_rows;
mod mass;
mod merge;
mod rows;
mod score;
mod summarize;
mod topk;

pub(crate) use score::problem as score_problem;
