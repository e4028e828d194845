//! Problems that tell mutants of the kernels that attend over tiered pages from the kernels, short ones first.

use lacuna::attention::{Mask, Tokens};
use lacuna::element::{Half, Real};
use lacuna::kv::KvLists;
use lacuna::quant::{Part as Of, Tail, Tier};

use super::problem::{self, Paged, Pages, endless, sparse, spoil, spoil_entries};
use crate::attend::problem::{Brain, Case, Part, Results, Short};
use crate::attend::{Differs, beside, model};
use crate::common::Random;

/// More rows of a head's queries than four.
pub(super) fn case() -> Case {
    Case { group: 5, ..problem::case() }
}

/// The same.
fn alone() -> Case {
    Case { group: 5, ..problem::alone() }
}

/// Logits and the status stand after log-sums.
pub(super) fn hold<T: Half + Sync, O: Real + Sync + 'static>(paged: Paged<T>) -> Differs {
    let join = |(results, logits, status): (Results<O>, Vec<u32>, u64)| Results {
        log_sums: [results.log_sums, logits, vec![status as u32, (status >> 32) as u32]].concat(),
        ..results
    };
    let (results, logits) = paged.expect::<O>(model());
    let expected = join((results, logits, paged.expect_status()));
    beside(expected, move |queue| paged.attend_with_status::<O>(queue).map(join))
}

fn plain() -> Paged<Brain> {
    let case = Case { n_queries: 3, group: 3, ..case() };
    Paged::new(&case, &Pages { has_counts: true, n_pages: 6, ..Pages::default() })
}

/// Little of all, since most mutants need no more.
fn quick() -> Paged<Brain> {
    let parts = vec![Part::of(Tokens::ALL).masked(Mask::Causal)];
    let case = Case { lengths: vec![70], parts, group: 3, n_queries: 2, ..alone() };
    Paged::new(&case, &Pages { n_pages: 3, ..Pages::default() })
}

/// A scale of a channel of keys is infinite, which makes NaN of logits.
fn infinite() -> Paged<Brain> {
    let pages = Pages { n_pages: 1, tiers: vec![Tier::T4], ..Pages::default() };
    let mut paged = Paged::<Brain>::new(&alone(), &pages);
    paged.scales[0].as_mut().unwrap()[37] = f32::INFINITY;
    paged
}

/// Nothing of one kind; tails of minimums, caps, and counts of each request.
fn others() -> Paged<Short> {
    let picked = Tokens::Blocks { n_blocks: 9, block_size: 3 };
    let parts = vec![
        Part { has_counts: true, has_biases: true, ..Part::of(picked) },
        Part { lists: KvLists::PerHead, ..Part::of(Tokens::last(70).after(4)) }
            .masked(Mask::Window(50)),
    ];
    let case = Case {
        lengths: vec![90, 100, 3],
        parts,
        n_queries: 5,
        group: 2,
        soft_cap: Some(3.0),
        has_sinks: true,
        ..case()
    };
    let (tail, lists) = (Tail::Minimums, KvLists::PerRequest);
    let pages = Pages { tail, lists, has_counts: true, n_pages: 4, ..Pages::default() };
    let mut paged = Paged::new(&case, &pages).with_three_stages();
    paged.counts = Some(vec![200, 0, 256]);
    paged.problem.skips = Some(vec![0, 0, 0]);
    paged
}

/// A channel's scales, or offsets, are not there.
fn without(which: usize) -> Paged<Brain> {
    let mut paged = Paged::<Brain>::new(
        &Case { n_queries: 2, ..alone() },
        &Pages { n_pages: 3, ..Pages::default() },
    );
    let [keys, values] = &mut paged.scales;
    let [of_keys, of_values] = &mut paged.offsets;
    *[keys, values, of_keys, of_values][which] = None;
    paged.has_logits = which != 0;
    paged
}

/// What is no number stands past a list's count, of pages of one tier.
fn past_the_count(tier: Tier, tail: Tail) -> Paged<Brain> {
    let pages =
        Pages { tiers: vec![tier], tail, n_pages: 262, span_pages: 262, ..Pages::default() };
    let mut paged = Paged::<Brain>::new(&alone(), &Pages { most_pool_pages: 9, ..pages });
    // The second of a warp's steps, of a split of eight; its page is alone there.
    paged.counts = Some(vec![64 * 261 + 37]);
    for entries in &mut paged.entries {
        let page = |p: u32| if p == 261 { 4 } else { p % 4 };
        entries.clone_from(&(0..262).map(|p| tier.tag() << 30 | page(p)).collect());
    }
    paged.keep(|p| p >= 256);
    let shape = paged.plan.pages().page(Of::Keys);
    let n_bytes = shape.page_bytes(tier);
    let page = &mut paged.pools[tier.tag() as usize][4 * n_bytes..][..n_bytes];
    for t in 37..64 {
        let at = if tier.is_coded() { shape.scale_byte(tier, t) } else { 2 * 64 * t };
        page[at..at + 4].fill(0xFF);
    }
    paged
}

/// Two spans' scales make queries of which the unit is 0, and just not.
fn tiny() -> Paged<Brain> {
    let pages = Pages { n_pages: 2, span_pages: 1, tiers: vec![Tier::T4], ..Pages::default() };
    let pages = Pages { has_offsets: false, ..pages };
    let mut paged = Paged::<Brain>::new(&alone(), &pages);
    paged.problem.queries.fill(Brain::from_f32(1.0));
    let scales = paged.scales[0].as_mut().unwrap();
    scales[..64].fill(2.0_f32.powi(-115));
    scales[64..].fill(2.0_f32.powi(-113));
    paged
}

/// Logits of -0, and far above what counts.
fn of_numbers(query: f32, key: f32) -> Paged<Brain> {
    let pages = Pages { n_pages: 1, tiers: vec![Tier::T16], ..Pages::default() };
    let mut paged = Paged::<Brain>::new(&alone(), &pages);
    paged.problem.queries.fill(Brain::from_f32(0.0));
    paged.problem.queries[0] = Brain::from_f32(query);
    for row in paged.pools[0].chunks_mut(2 * 64) {
        let own = Brain::from_le_bytes([row[0], row[1]]).to_f32();
        row[..2].copy_from_slice(&Brain::from_f32(key * own.abs()).to_le_bytes());
    }
    paged
}

/// As many steps as 64 splits have.
fn of_256_steps() -> Paged<Brain> {
    let pages = Pages { n_pages: 256, span_pages: 256, most_pool_pages: 9, ..Pages::default() };
    let mut paged = Paged::<Brain>::new(&alone(), &pages);
    paged.keep(|p| (8..16).contains(&p));
    paged
}

/// Of all that hostile tables and pages have.
fn hostile(seed: u64, tail: Tail) -> Paged<Brain> {
    let case = Case { seed, n_queries: 2, ..case() };
    let pages = Pages { has_counts: true, tail, n_pages: 7, ..Pages::default() };
    let mut paged = Paged::<Brain>::new(&case, &pages);
    spoil(&mut paged, seed);
    paged
}

/// Pages of none, and the last of pools.
fn wild() -> Paged<Brain> {
    let mut paged = Paged::<Brain>::new(&case(), &Pages { n_pages: 8, ..Pages::default() });
    spoil_entries(&mut paged, &mut Random(5));
    let n_pool_pages = paged.plan.pages().shape().n_pool_pages;
    for (i, entry) in paged.entries.iter_mut().flatten().enumerate() {
        let tag = i % 4;
        match i % 3 {
            0 => *entry = (tag as u32) << 30 | (n_pool_pages[tag] - 1) as u32,
            1 if i % 5 == 0 => *entry = (tag as u32) << 30 | n_pool_pages[tag] as u32,
            _ => {}
        }
    }
    // What is not there is not a query's numbers either.
    paged.problem.queries[0] = Brain::from_f32(f32::NAN);
    paged
}

fn nothing() -> Paged<Brain> {
    let mut paged =
        Paged::<Brain>::new(&Case { lengths: vec![9, 9], ..alone() }, &Pages::default());
    paged.counts = Some(vec![0, 70]);
    paged
}

fn skipped() -> Paged<Brain> {
    let mut paged = plain();
    paged.problem.skips = Some(vec![0, 1]);
    paged
}

/// Queries that do not see all of the last rows, nor what those before them see, nor pages; nobody asks for logits.
fn narrow() -> Paged<Brain> {
    let parts = vec![Part::of(Tokens::last(20)).masked(Mask::Window(2))];
    let case = Case { n_queries: 5, parts, ..case() };
    let mut paged = Paged::new(&case, &Pages { n_pages: 1, ..Pages::default() });
    paged.has_logits = false;
    paged.counts = Some(vec![0; paged.plan.pages().n_lists() as usize]);
    paged
}

/// Tokens that weigh alike, whatever their keys.
fn alike(mut paged: Paged<Brain>) -> Paged<Brain> {
    paged.problem.queries.fill(Brain::from_f32(0.0));
    paged
}

/// A key of a segment that is no number.
fn of_no_number() -> Paged<Brain> {
    let mut paged = Paged::<Brain>::new(&case(), &Pages { n_pages: 1, ..Pages::default() });
    for key in paged.problem.segments[1].keys.iter_mut().step_by(97) {
        *key = Brain::from_f32(f32::NAN);
    }
    paged
}

pub(super) fn problems() -> Vec<Differs> {
    let negative = |step: f32| {
        let pages =
            Pages { n_pages: 1, tiers: vec![Tier::T8], tail: Tail::Minimums, ..Pages::default() };
        let mut paged = Paged::<Brain>::new(&alone(), &pages);
        let shape = paged.plan.pages().page(Of::Keys);
        for page in paged.pools[1].chunks_mut(shape.page_bytes(Tier::T8)) {
            for t in 0..64 {
                let at = shape.scale_byte(Tier::T8, t);
                // The greatest are of the other sign.
                let times = if t % 3 == 0 { -8.0 } else { 1.0 };
                let step = step * times * (1 + t % 7) as f32;
                page[at..at + 4].copy_from_slice(&step.to_le_bytes());
            }
        }
        paged
    };
    vec![
        hold::<_, f32>(quick()),
        hold::<_, f32>(plain()),
        hold::<_, Short>(others()),
        hold::<_, f32>(without(0)),
        hold::<_, f32>(without(1)),
        hold::<_, f32>(without(2)),
        hold::<_, f32>(without(3)),
        hold::<_, f32>(past_the_count(Tier::T16, Tail::ZeroPoints)),
        hold::<_, f32>(past_the_count(Tier::T2, Tail::ZeroPoints)),
        hold::<_, f32>(past_the_count(Tier::T4, Tail::Minimums)),
        hold::<_, f32>(tiny()),
        hold::<_, f32>(infinite()),
        hold::<_, f32>(of_numbers(1e-20, -1e-25)),
        hold::<_, f32>(of_numbers(1e10, 1e10)),
        hold::<_, f32>(negative(-0.003)),
        hold::<_, f32>(alike(negative(-0.003))),
        hold::<_, f32>(nothing()),
        hold::<_, f32>(narrow()),
        hold::<_, f32>(of_no_number()),
        hold::<_, f32>(skipped()),
        hold::<_, f32>(wild()),
        hold::<_, f32>(hostile(1, Tail::ZeroPoints)),
        hold::<_, f32>(hostile(2, Tail::Minimums)),
        hold::<_, f32>(of_256_steps()),
        hold::<_, f32>(sparse::<Brain>(5)),
        hold::<_, f32>(sparse::<Brain>(5).with_three_stages()),
        hold::<_, f32>(endless::<Short>(5)),
    ]
}
