//! The recipes of `examples/`: what each selects is what its paper says, by a slow formula that shares nothing with the kernels'
//! references.
#![allow(clippy::duplicate_mod, reason = "each example has the module of what they share")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../examples/toy/mod.rs"]
mod toy;

mod d2o;
mod decode_step;
mod lazy_llm;
mod oracle;
mod quest;
mod shadow_kv;
mod tiered_kv;
mod token_select;
mod zip_cache;
mod zip_vl;
