//! What the targets share: an input's bytes as numbers, weights and damage, what must hold of groups
//! that are decoded, and the tests' properties. To the tests of a target this crate is `proptest`.

mod check;
mod input;
mod property;

pub use check::{check_group, check_indexed, check_walked, corrupt_tile, corruption};
pub use input::{Input, damage, damage_bytes, loosened, placed, words};
pub use property::{PROPERTIES, Property, outcome_of, queue, run_property, word_of};

pub use linkme;
pub use proptest::*;

/// What tests take from `proptest`, with lists of properties for its tests.
pub mod prelude {
    pub use crate::properties as proptest;
    pub use proptest::prelude::*;
}

/// Work that is split over threads stays on this one, so that an input always covers the same code.
pub fn use_one_thread() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
    pool.build_global().expect("the first pool of the process");
}
