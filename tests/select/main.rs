//! The room `select`: bit for bit the references, on every executor.

#[path = "../common/mod.rs"]
mod common;
mod mass;
mod score;
mod topk;

pub(crate) use score::problem as score_problem;
