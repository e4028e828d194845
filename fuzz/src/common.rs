//! What the tests of a room share, where their numbers and queues are the fuzzer's.
#![allow(unused, reason = "of the tests, the properties alone run")]

#[path = "../../tests/common/mod.rs"]
mod of_tests;
#[path = "../../tests/common/random.rs"]
mod random;

use lacuna::Queue;

pub(crate) use of_tests::*;
pub(crate) use random::Random;

fn word_of(state: u64) -> u32 {
    lacuna_fuzz::word_of(state)
}

pub(crate) fn queues() -> Vec<Queue> {
    vec![lacuna_fuzz::queue(true)]
}

pub(crate) fn queues_without_checks() -> Vec<Queue> {
    vec![lacuna_fuzz::queue(false)]
}
