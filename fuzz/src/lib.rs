//! What the targets share: an input's bytes as numbers, weights and damage, and what must hold of
//! groups that are decoded.

mod check;
mod input;

pub use check::{check_group, check_indexed, check_walked};
pub use input::{Input, damage, damage_bytes, loosened, placed, words};

/// Work that is split over threads stays on this one, so that an input always covers the same code.
pub fn use_one_thread() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
    pool.build_global().expect("the first pool of the process");
}
