//! Entries, counts, pages and channels of anything: nothing is read that is not there, and the bits are the reference's.

use lacuna::mma::Model;
use lacuna::quant::{EntryTable, MissingPage, Tail, Tier};

use super::problem::*;
use crate::attend::problem::{Brain, Case, Short};
use crate::common::{self, Random};

#[test]
fn wild_entries_and_counts_are_bounded() {
    for seed in 0..4 {
        let case = Case { seed, n_queries: 2, ..case() };
        let mut paged = Paged::<Brain>::new(&case, &Pages { n_pages: 11, ..Pages::default() });
        spoil_entries(&mut paged, &mut Random(seed));
        assert_same::<_, f32>(&paged);
        paged.counts = Some(vec![u32::MAX, 705, 64 * 11, 1]);
        assert_same::<_, f32>(&paged);
        // One pool after the other is none.
        for i in 0..4 {
            paged.pools[i].clear();
            assert_same::<_, f32>(&paged);
        }
        let nowhere = f32::NEG_INFINITY.to_bits();
        let (_, logits) = paged.expect::<f32>(Model::HOPPER);
        let n_positions = paged.plan.n_positions() as usize;
        for logits in logits.chunks(n_positions) {
            assert!(logits[..64 * 11].iter().all(|bits| *bits == nowhere));
        }
    }
}

/// A status word names the first entry whose page is not there, and is left where all are.
#[test]
fn missing_pages_are_named() {
    let mut paged = Paged::<Brain>::new(&case(), &Pages { n_pages: 6, ..Pages::default() });
    let n_pool_pages = paged.plan.pages().shape().n_pool_pages;
    let missing = |paged: &Paged<Brain>| {
        assert_same::<_, f32>(paged);
        let queue = lacuna::Queue::simt(lacuna::simt::Config::default());
        let (_, _, status) = paged.attend_with_status::<f32>(&queue).unwrap();
        MissingPage::from_status(status)
    };
    assert_eq!(missing(&paged), None);
    // Of no page, and meant to be.
    paged.entries[0][7] |= MissingPage::NONE;
    assert_eq!(missing(&paged), None);
    paged.entries[0][20] = 2 << 30 | n_pool_pages[2] as u32;
    assert_eq!(missing(&paged), Some(MissingPage { table: EntryTable::Keys, entry: 20 }));
    for part in 0..2 {
        paged.entries[part][13] = 1 << 30 | (MissingPage::NONE - 1);
        let table = [EntryTable::Keys, EntryTable::Values][part];
        let found = missing(&paged).unwrap();
        assert_eq!(found, MissingPage { table, entry: 13 });
        let text = format!("{table}: entry 13 is of a page that its pool does not have");
        assert_eq!(found.to_string(), text);
    }
    // What no count reaches is not looked for.
    paged.counts = Some(vec![64; paged.plan.pages().n_lists() as usize]);
    assert_eq!(missing(&paged), None);
}

/// One number of a kind at a time: steps, minimums and zero points of pages, scales, offsets, queries.
#[test]
fn what_is_no_number() {
    for (i, value) in WILD.into_iter().enumerate() {
        let tier = [Tier::T8, Tier::T4, Tier::T2][i % 3];
        let tag = tier.tag() as usize;
        for tail in [Tail::ZeroPoints, Tail::Minimums] {
            let pages = Pages { n_pages: 2, tiers: vec![tier], tail, ..Pages::default() };
            let paged = Paged::<Brain>::new(&Case { group: 2, ..alone() }, &pages);
            let shape = paged.plan.pages().page(lacuna::quant::Part::Keys);
            for is_step in [true, false] {
                let mut paged = paged.clone();
                for page in paged.pools[tag].chunks_mut(shape.page_bytes(tier)) {
                    let (step, zero) = (shape.scale_byte(tier, 21), shape.zero_byte(tier, 21));
                    let at = if is_step { step } else { zero };
                    match tail {
                        Tail::Minimums => page[at..at + 4].copy_from_slice(&value.to_le_bytes()),
                        Tail::ZeroPoints => {
                            let bytes = Brain::from_f32(value).to_le_bytes();
                            page[at..at + 2].copy_from_slice(&bytes);
                        }
                    }
                }
                assert_same::<_, f32>(&paged);
                let is_bad = is_step || tail == Tail::Minimums;
                if value.is_nan() && is_bad {
                    let (results, _) = paged.expect::<f32>(Model::HOPPER);
                    assert!(results.outputs[..64].iter().all(|x| x.is_nan()));
                    assert!(f32::from_bits(results.log_sums[0]).is_nan());
                }
            }
            for part in 0..2 {
                for is_scale in [true, false] {
                    let mut paged = paged.clone();
                    let all = if is_scale { &mut paged.scales } else { &mut paged.offsets };
                    all[part].as_mut().unwrap()[37] = value;
                    assert_same::<_, f32>(&paged);
                    let (results, _) = paged.expect::<f32>(Model::HOPPER);
                    // Of keys all is none, of values their channel.
                    if value.is_nan() {
                        let n = results.outputs[..64].iter().filter(|x| x.is_nan()).count();
                        assert_eq!(n, if part == 0 { 64 } else { 1 });
                    }
                }
            }
            let mut paged = paged;
            paged.problem.queries[5] = Brain::from_f32(value);
            assert_same::<_, f32>(&paged);
            // All of them.
            paged.problem.queries[..64].fill(Brain::from_f32(value));
            assert_same::<_, f32>(&paged);
        }
    }
}

#[test]
fn pages_of_any_bytes() {
    for (seed, tail) in (0..6).zip([Tail::ZeroPoints, Tail::Minimums].into_iter().cycle()) {
        let case = Case { seed, n_queries: 2, ..case() };
        let pages = Pages { tail, n_pages: 3, ..Pages::default() };
        let mut paged = Paged::<Short>::new(&case, &pages);
        let mut random = Random(seed.wrapping_add(1));
        for byte in paged.pools.iter_mut().flatten() {
            *byte = random.next() as u8;
        }
        assert_same::<_, f32>(&paged);
        spoil(&mut paged, seed);
        assert_same::<_, Short>(&paged);
    }
}

/// What a request's pages, counts and channels are is nothing to the others.
#[test]
fn a_request_of_nan_leaves_others_alone() {
    let case = Case { lengths: vec![90, 33, 50], n_queries: 2, ..case() };
    let pages = Pages { has_counts: true, n_pages: 6, ..Pages::default() };
    let good = Paged::<Brain>::new(&case, &pages);
    let mut bad = good.clone();
    let (d, n_spans) = (64, bad.plan.pages().n_spans() as usize);
    for all in bad.scales.iter_mut().chain(&mut bad.offsets).flatten() {
        all[..2 * n_spans * d].fill(f32::NAN);
    }
    for entries in &mut bad.entries {
        entries[..12].fill(3 << 30);
    }
    bad.counts.as_mut().unwrap()[..2].fill(u32::MAX);
    for queue in common::queues() {
        let [good, bad] = [&good, &bad].map(|paged| paged.attend::<f32>(&queue).unwrap());
        for b in 1..3 {
            assert_request(&good, b, 3, &bad, b, 3);
        }
        assert!(bad.0.outputs[..64].iter().all(|x| x.is_nan()));
    }
}
