//! The kernels that attend over tiered pages.

use std::ffi::c_void;

use lacuna::quant::Tail;
use lacuna::simt::Entry;

use self::mutations::{MUTATIONS, OF_FOUR_ROWS, OF_LONGER_HEADS};
use self::problem::{Paged, Pages};
use self::problems::{case, hold, problems};
use crate::attend::problem::{Brain, Case};
use crate::{Kernel, Mutation};

mod mutations;
#[path = "../../attention/tiered/problem.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod problem;
mod problems;

const OF_64: &str = include_str!("../../../csrc/attention/tiered_64.cu");

const fn kernel(
    source: &'static str,
    entry: &'static str,
    mutations: &'static [Mutation],
) -> Kernel {
    Kernel {
        room: "attention",
        source,
        headers: &[
            ("tiered.cuh", include_str!("../../../csrc/attention/tiered.cuh")),
            ("scores.cuh", include_str!("../../../csrc/attention/scores.cuh")),
            ("weighed.cuh", include_str!("../../../csrc/attention/weighed.cuh")),
            ("feed.cuh", include_str!("../../../csrc/attention/feed.cuh")),
            ("codes.cuh", include_str!("../../../csrc/attention/codes.cuh")),
        ],
        entry,
        mutations,
    }
}

unsafe extern "C" {
    fn lacuna_simt_attend_tiered_64x4(params: *const c_void, is_checked: u32);
    fn lacuna_simt_attend_tiered_64x8(params: *const c_void, is_checked: u32);
    fn lacuna_simt_attend_tiered_128x8(params: *const c_void, is_checked: u32);
    fn lacuna_simt_attend_tiered_256x8(params: *const c_void, is_checked: u32);
}

#[test]
fn every_mutation_of_attend_tiered_64_is_caught() {
    let own: Entry = lacuna_simt_attend_tiered_64x8;
    let problems = problems();
    kernel(OF_64, "attend_tiered_64x8", MUTATIONS)
        .assert_all_caught(own, |entry| problems.iter().any(|differs| differs(own, entry)));
}

#[test]
fn every_mutation_of_four_rows_is_caught() {
    let own: Entry = lacuna_simt_attend_tiered_64x4;
    let case = Case { n_queries: 2, ..problem::case() };
    let differs = hold::<_, f32>(Paged::<Brain>::new(&case, &Pages::default()));
    kernel(OF_64, "attend_tiered_64x4", OF_FOUR_ROWS)
        .assert_all_caught(own, |entry| differs(own, entry));
}

#[test]
fn every_mutation_of_longer_heads_is_caught() {
    let minimums = Pages { tail: Tail::Minimums, n_pages: 4, ..Pages::default() };
    let of = |head_dim| Case { head_dim, n_queries: 2, ..case() };
    let problems =
        [128, 256].map(|head_dim| hold::<_, f32>(Paged::<Brain>::new(&of(head_dim), &minimums)));
    let own: [Entry; 2] = [lacuna_simt_attend_tiered_128x8, lacuna_simt_attend_tiered_256x8];
    let of_256 = include_str!("../../../csrc/attention/tiered_256.cu");
    let of_128 = include_str!("../../../csrc/attention/tiered_128.cu");
    let files = [(of_128, "attend_tiered_128x8"), (of_256, "attend_tiered_256x8")];
    for (i, (file, entry)) in files.into_iter().enumerate() {
        kernel(file, entry, OF_LONGER_HEADS)
            .assert_all_caught(own[i], |entry| problems[i](own[i], entry));
    }
}
