//! The room `select`: bit for bit the references, on every executor.

#[path = "../common/mod.rs"]
mod common;
mod gate;
mod mass;
mod score;
mod summarize;
mod topk;

pub(crate) use score::problem as score_problem;
