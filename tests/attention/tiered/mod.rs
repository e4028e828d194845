//! `attend_tiered`.

mod hostile;
mod laws;
pub(crate) mod problem;

use lacuna::Queue;
use lacuna::attention::{AttendPlan, AttendShape, LogBase, Mask, SegmentShape, TieredPlan, Tokens};
use lacuna::kv::{KvLayout, KvLists, KvShape};
use lacuna::mma::Model;
use lacuna::quant::{PagesPlan, PagesShape, Tail, Tier};
use lacuna::simt::Config;
use proptest::prelude::*;

use self::problem::*;
use crate::attend::laws::{ORDERS, any_case, any_size};
use crate::attend::problem::{Brain, Case, Part, Short, assert_results};
use crate::common::{self, Random};

#[test]
fn each_tier_alone() {
    for tier in Tier::ALL {
        for group in [2, 5] {
            let pages = Pages { tiers: vec![tier], ..Pages::default() };
            assert_same::<_, f32>(&Paged::<Brain>::new(&Case { group, ..case() }, &pages));
        }
    }
}

#[test]
fn tiers_together() {
    for (head_dim, tail) in [(64, Tail::ZeroPoints), (128, Tail::Minimums), (256, Tail::ZeroPoints)]
    {
        // Of a head, rows that a block of four has, and rows of two blocks of eight.
        for (group, n_queries) in [(2, 2), (5, 3)] {
            let case = Case { head_dim, n_queries, group, has_sinks: true, ..case() };
            let pages = Pages { tail, has_counts: true, n_pages: 9, ..Pages::default() };
            assert_same::<_, f32>(&Paged::<Brain>::new(&case, &pages));
            assert_same::<_, Short>(&Paged::<Short>::new(&case, &pages));
            assert_same::<_, Brain>(&Paged::<Brain>::new(&case, &pages).with_three_stages());
        }
    }
}

#[test]
fn no_pages_and_no_rows() {
    for n_pages in [0, 1, 5] {
        let pages = Pages { n_pages, span_pages: 1, ..Pages::default() };
        for case in [case(), alone(), Case { lengths: Vec::new(), ..case() }] {
            let mut paged = Paged::<Brain>::new(&case, &pages);
            assert_same::<_, f32>(&paged);
            let n_lists = paged.plan.pages().n_lists() as usize;
            paged.counts = Some(vec![0; n_lists]);
            assert_same::<_, f32>(&paged);
        }
    }
    let mut nothing = Paged::<Brain>::new(&alone(), &Pages::default());
    nothing.counts = Some(vec![0]);
    let (results, logits) = nothing.expect::<f32>(Model::HOPPER);
    assert_eq!(results.outputs[..64], [0.0; 64]);
    assert_eq!(results.log_sums, [f32::NEG_INFINITY.to_bits()]);
    assert!(logits.iter().all(|bits| *bits == f32::NEG_INFINITY.to_bits()));
}

/// The end of a page, of a split's least four steps, and of all.
#[test]
fn pages_and_slots_around_a_split() {
    for n_pages in [1, 3, 4, 5, 8, 9] {
        let pages = Pages { n_pages, ..Pages::default() };
        assert_same::<_, f32>(&Paged::<Brain>::new(&alone(), &pages));
        let mut paged = Paged::<Brain>::new(&alone(), &pages).with_three_stages();
        for n in [1, 63, 64, 65, 64 * n_pages - 1, 64 * n_pages + 1] {
            paged.counts = Some(vec![n as u32]);
            assert_same::<_, f32>(&paged);
        }
    }
}

/// A split is longer than four steps from 64 of those on.
#[test]
fn splits_of_more_than_four_steps() {
    for (n_pages, n_tokens) in [(255, 64), (255, 65), (256, 0), (257, 0), (515, 0)] {
        let parts = vec![Part::of(Tokens::ALL)];
        let case = Case { lengths: vec![n_tokens], parts, ..alone() };
        let tiers = vec![Tier::T2, Tier::T4, Tier::T2, Tier::T8];
        let pages = Pages { n_pages, span_pages: 100, tiers, ..Pages::default() };
        assert_same::<_, f32>(&Paged::<Brain>::new(&case, &pages));
    }
}

/// A warp has several steps, of pages and of rows, between others that are not there; and more than it holds the entries of.
#[test]
fn many_steps_of_a_warp() {
    for group in [3, 5] {
        let paged = sparse::<Brain>(group);
        assert_same::<_, f32>(&paged);
        assert_same::<_, f32>(&paged.with_three_stages());
        assert_same::<_, f32>(&endless::<Short>(group));
    }
}

#[test]
fn groups_and_queries_of_all_sizes() {
    for (group, n_queries) in [(1, 1), (2, 3), (3, 8), (4, 2), (5, 5), (8, 1), (9, 1), (16, 8)] {
        let case = Case { group, n_queries, lengths: vec![33, 2], ..case() };
        let pages = Pages { n_pages: 4, ..Pages::default() };
        assert_same::<_, f32>(&Paged::<Brain>::new(&case, &pages));
    }
}

#[test]
fn spans_channels_and_tails() {
    let case = Case { n_queries: 2, ..case() };
    for (n_pages, span_pages) in [(7, 1), (7, 2), (7, 7), (7, 100), (1, 1)] {
        for tail in [Tail::ZeroPoints, Tail::Minimums] {
            let tiers = vec![Tier::T8, Tier::T4, Tier::T2];
            let pages = Pages { n_pages, span_pages, tail, tiers, ..Pages::default() };
            assert_same::<_, f32>(&Paged::<Brain>::new(&case, &pages));
        }
    }
    // Each of the four there, or not.
    for which in 0..16 {
        let mut paged = Paged::<Short>::new(&case, &Pages::default());
        let [keys, values] = &mut paged.scales;
        let [of_keys, of_values] = &mut paged.offsets;
        for (i, channels) in [keys, values, of_keys, of_values].into_iter().enumerate() {
            *channels = channels.take().filter(|_| which >> i & 1 != 0);
        }
        assert_same::<_, f32>(&paged);
    }
}

#[test]
fn counts_of_each_request_and_of_each_head() {
    for lists in [KvLists::PerRequest, KvLists::PerHead] {
        for seed in 1..4 {
            let pages = Pages { lists, has_counts: true, ..Pages::default() };
            assert_same::<_, f32>(&Paged::<Brain>::new(&Case { seed, ..case() }, &pages));
        }
    }
}

#[test]
fn sinks_caps_bases_orders_and_skips() {
    for (i, log_sum_order) in ORDERS.into_iter().enumerate() {
        let soft_cap = [None, Some(3.0), Some(30.0)][i];
        let has_sinks = i != 1;
        let case = Case { n_queries: 3, log_sum_order, soft_cap, has_sinks, ..case() };
        let paged = Paged::<Brain>::new(&case, &Pages { has_counts: true, ..Pages::default() });
        assert_same::<_, Short>(&paged);
        assert_same::<_, f32>(&paged.clone().with_base(LogBase::Two));
        let mut skipped = paged.clone();
        skipped.problem.skips = Some(vec![7, 0]);
        assert_same::<_, f32>(&skipped);
        let mut without = Paged { has_logits: false, ..paged };
        assert_same::<_, f32>(&without);
        without.problem.has_log_sums = false;
        assert_same::<_, f32>(&without);
    }
}

#[test]
fn segments_of_all_kinds() {
    let picked = Tokens::Blocks { n_blocks: 9, block_size: 3 };
    for (lists, n_queries) in [(KvLists::PerHead, 1), (KvLists::PerRequest, 4)] {
        let parts = vec![
            Part::of(Tokens::first(4)),
            Part { lists, has_counts: true, has_biases: true, ..Part::of(picked) },
            Part { has_biases: true, ..Part::of(Tokens::last(20).after(4)) }.masked(Mask::Causal),
            Part::of(Tokens::Blocks { n_blocks: 3, block_size: 128 }).masked(Mask::Window(50)),
        ];
        for lengths in [vec![100, 0, 3, 17], vec![257], vec![5, 6]] {
            let case = Case { lengths, n_queries, parts: parts.clone(), ..case() };
            let pages = Pages { n_pages: 3, ..Pages::default() };
            assert_same::<_, f32>(&Paged::<Brain>::new(&case, &pages));
            assert_same::<_, f32>(&Paged::<Short>::new(&case, &pages).with_three_stages());
        }
    }
}

/// Steps of rows follow each other as pages do, one warp's and several splits'.
#[test]
fn many_rows_beside_pages() {
    for lengths in [vec![64, 1025], vec![128, 700]] {
        let parts = vec![Part::of(Tokens::ALL).masked(Mask::Causal)];
        let case = Case { lengths, parts, n_queries: 2, ..case() };
        for n_pages in [0, 2, 6] {
            let pages = Pages { n_pages, ..Pages::default() };
            assert_same::<_, f32>(&Paged::<Brain>::new(&case, &pages));
        }
    }
}

#[test]
fn a_request_does_not_see_the_batch() {
    let case = Case { lengths: vec![90, 33, 0, 70, 2], n_queries: 2, ..case() };
    let pages = Pages { has_counts: true, n_pages: 6, ..Pages::default() };
    let all = Paged::<Brain>::new(&case, &pages);
    for queue in common::queues() {
        let of_all = all.attend::<f32>(&queue).unwrap();
        for requests in [vec![0], vec![4, 2], vec![1, 1, 0, 3]] {
            let some = all.of_requests(&requests).attend::<f32>(&queue).unwrap();
            for (to, from) in requests.iter().enumerate() {
                assert_request(&some, to, requests.len(), &of_all, *from, 5);
            }
        }
    }
}

#[test]
fn every_schedule_and_both_kinds_of_tensor_cores() {
    let case = Case { n_queries: 2, group: 3, ..case() };
    let pages = Pages { has_counts: true, n_pages: 9, ..Pages::default() };
    for head_dim in [64, 256] {
        let two = Paged::<Brain>::new(&Case { head_dim, ..case.clone() }, &pages);
        let three = two.clone().with_three_stages();
        for mma in [Model::AMPERE, Model::HOPPER] {
            let (expected, expected_logits) = two.expect::<f32>(mma);
            for (i, config) in common::configs().enumerate() {
                let what = format!("{:?} {:?}", config.schedule, config.fibres);
                let paged = if i % 2 == 0 { &two } else { &three };
                let queue = Queue::simt(Config { mma, ..config });
                let (results, logits) = paged.attend::<f32>(&queue).unwrap();
                assert_results(&results, &expected, &what);
                assert_eq!(logits, expected_logits, "{what}");
            }
        }
        let [ampere, hopper] = [Model::AMPERE, Model::HOPPER].map(|model| two.expect::<f32>(model));
        assert_ne!(ampere.0.outputs, hopper.0.outputs, "two generations round differently");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let layout = case().kv_layout().unwrap();
    let attend = case().plan().unwrap();
    let refused = |attend: AttendPlan, layout: KvLayout| {
        let pages = PagesPlan::new(PagesShape::of(layout, 3)).unwrap();
        TieredPlan::new(attend, pages).unwrap_err().to_string()
    };
    let with = |shape: KvShape| KvLayout::new(shape.nhd()).unwrap();
    let shape = KvShape { page_stride: 0, head_stride: 0, token_stride: 0, ..*layout.shape() };
    assert_eq!(
        refused(attend, with(KvShape { batch: 3, ..shape })),
        "requests of pages: expected 2, got 3"
    );
    assert_eq!(
        refused(attend, with(KvShape { n_heads: 3, ..shape })),
        "heads of pages: expected 2, got 3"
    );
    assert_eq!(
        refused(attend, with(KvShape { row_len: 128, ..shape })),
        "elements of a head of pages: expected 64, got 128"
    );
    let long = Case { head_dim: 96, ..case() };
    assert_eq!(
        refused(long.plan().unwrap(), long.kv_layout().unwrap()),
        "elements of a head of pages: 96 is outside 64, 128 and 256"
    );
    let many = KvShape { n_heads: 20_000, batch: 1, ..shape };
    let of = AttendShape { n_queries: 8, ..AttendShape::of(&with(many), 80_000) };
    let segment = SegmentShape::of(with(many), Tokens::first(1));
    assert_eq!(
        refused(AttendPlan::new(of, &[segment]).unwrap(), with(many)),
        "blocks of queries and heads: 80000 is outside 0..65536"
    );
}

#[test]
fn what_a_launch_is_not_given_is_named() {
    let queue = Queue::simt(Config::default());
    let paged = Paged::<Brain>::new(&case(), &Pages { has_counts: true, ..Pages::default() });
    let refused = |change: &dyn Fn(&mut Paged<Brain>)| {
        let mut paged = paged.clone();
        change(&mut paged);
        paged.attend::<f32>(&queue).unwrap_err().to_string()
    };
    let entries = |i: usize| refused(&|p| p.entries[i].truncate(3));
    assert_eq!(entries(0), "key_entries: expected 20, got 3");
    assert_eq!(entries(1), "value_entries: expected 20, got 3");
    assert_eq!(refused(&|p| p.counts = Some(vec![1])), "counts of pages: expected 4, got 1");
    for i in 0..2 {
        let scales = refused(&|p| p.scales[i] = Some(vec![1.0; 64]));
        assert_eq!(scales, "scales of channels: expected 768, got 64");
        let offsets = refused(&|p| p.offsets[i] = Some(vec![1.0; 64]));
        assert_eq!(offsets, "offsets of channels: expected 768, got 64");
    }
    let pool = refused(&|p| p.pools[2].truncate(16));
    let n = paged.plan.pages().pool_bytes(Tier::T4);
    assert_eq!(pool, format!("pool of pages: expected {n}, got 16"));
    assert_eq!(refused(&|p| p.problem.segments.clear()), "segments: expected 2, got 0");
}

/// Sizes at the edges of what is allowed, each with the others.
#[test]
fn plans_of_extreme_sizes_count_right() {
    let mut random = Random(7);
    let mut n_passed = 0;
    for _ in 0..20_000 {
        let mut pick = |all: &[u64]| all[(random.next() % all.len() as u64) as usize];
        let n_heads = pick(&[1, 8, 128, 8191, 65_535]);
        let shape = KvShape {
            batch: pick(&[0, 1, 2, 4096, 32_767]),
            n_heads,
            row_len: pick(&[64, 128, 256]),
            n_pages: pick(&[0, 1, (1 << 31) - 1]),
            page_size: 16,
            table_stride: pick(&[0, 1, 1 << 22]),
            ..KvShape::default()
        };
        let Ok(layout) = KvLayout::new(shape.nhd()) else { continue };
        let n_blocks = pick(&[0, 1, (1 << 26) - 1]);
        let blocks = SegmentShape::of(layout, Tokens::Blocks { n_blocks, block_size: 1 });
        let segments = vec![blocks; pick(&[1, 4]) as usize];
        let n_queries = pick(&[1, 3, 8]);
        let of = AttendShape { n_queries, ..AttendShape::of(&layout, n_heads * pick(&[1, 3, 16])) };
        let Ok(attend) = AttendPlan::new(of, &segments) else { continue };
        let n_pages = pick(&[0, 1, 4, (1 << 20) - 1]);
        let span_pages = pick(&[1, 2, 1 << 20]);
        let n_pool_pages = [0, 1, 1 << 30, pick(&[0, 1 << 30])];
        let pages = PagesShape { span_pages, n_pool_pages, ..PagesShape::of(layout, n_pages) };
        let Ok(pages) = PagesPlan::new(pages) else { continue };
        let Ok(plan) = TieredPlan::new(attend, pages) else { continue };
        n_passed += 1;
        for plan in [plan, plan.with_three_stages()] {
            let grid = plan.grid();
            assert!(grid.blocks[0] <= 64 && grid.blocks[1] < 65_536 && grid.blocks[2] < 65_536);
            assert!(grid.dynamic_shared_bytes <= 160 << 10);
        }
        assert!(plan.workspace_len() == plan.attend().workspace_len());
        let n_positions = 64 * n_pages + attend.n_positions();
        assert_eq!(plan.n_positions(), n_positions);
        let n_logits = u128::from(plan.attend().log_sums_len()) * u128::from(n_positions);
        assert_eq!(u128::from(plan.logits_len()), n_logits);
        assert!(plan.least_bytes([1, 2, 3, 4], 4) > plan.least_bytes([0; 4], 4));
    }
    assert!(n_passed > 3_000, "{n_passed}");
}

proptest! {
    #[test]
    fn a_plan_of_any_sizes_never_panics(
        numbers in proptest::array::uniform16(any_size()), n_pool_pages: [u64; 4], is_range: bool,
        row_len in proptest::sample::select(vec![0, 64, 128, 256, 96]),
    ) {
        let [batch, n_queries, n_q_heads, head_dim, query_stride, output_stride, kv_batch, n_heads,
            n_kv_pages, page_size, table_stride, first, end, last, n_pages, span_pages] = numbers;
        let shape = KvShape {
            batch: kv_batch, n_heads, row_len, n_pages: n_kv_pages, page_size, table_stride, ..KvShape::default()
        };
        let Ok(layout) = KvLayout::new(shape.nhd()) else { return Ok(()) };
        let tokens = if is_range {
            Tokens::Range { first, end, last }
        } else {
            Tokens::Blocks { n_blocks: first, block_size: end }
        };
        let segment = SegmentShape::of(layout, tokens);
        let wild = AttendShape {
            batch, n_queries, n_q_heads, head_dim, query_stride, output_stride, ..AttendShape::of(&layout, 1)
        };
        let of_group = AttendShape { n_queries, ..AttendShape::of(&layout, n_heads.saturating_mul(n_q_heads)) };
        for shape in [wild, of_group] {
            let Ok(attend) = AttendPlan::new(shape, &[segment]) else { continue };
            let pages = PagesShape { span_pages, n_pool_pages: n_pool_pages.map(|n| n >> 30), ..PagesShape::of(layout, n_pages) };
            let Ok(pages) = PagesPlan::new(pages) else { continue };
            let Ok(plan) = TieredPlan::new(attend, pages) else { continue };
            let _ = (plan.grid(), plan.logits_len(), plan.n_positions(), plan.workspace_len());
        }
    }
}

prop_compose! {
    fn any_pages()(
        n_pages in 0..9_u64, span_pages in 1..5_u64, is_per_head: bool, has_minimums: bool,
        has_counts: bool, has_scales: bool, has_offsets: bool,
        tiers in proptest::sample::subsequence(Tier::ALL.to_vec(), 1..=4),
    ) -> Pages {
        let lists = if is_per_head { KvLists::PerHead } else { KvLists::PerRequest };
        let tail = if has_minimums { Tail::Minimums } else { Tail::ZeroPoints };
        Pages {
            n_pages, span_pages, lists, tail, has_counts, has_scales, has_offsets, tiers, ..Pages::default()
        }
    }
}

/// Rows of queries are few, since the reference has each alone.
fn small(case: Case, head_dim: u64) -> Case {
    let group = if case.n_queries > 2 { case.group.min(3) } else { case.group };
    Case { head_dim, group, ..case }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn any_pages_are_the_reference_to_the_bit(
        case in any_case(), pages in any_pages(), dim in 0..8_usize, is_short: bool, has_three: bool,
        has_logits: bool, is_hostile: bool,
    ) {
        let case = small(case, [64, 64, 64, 64, 64, 128, 128, 256][dim]);
        if is_short {
            let mut paged = Paged::<Short>::new(&case, &pages);
            paged.has_logits = has_logits;
            if has_three { paged = paged.with_three_stages(); }
            if is_hostile { spoil(&mut paged, case.seed); }
            assert_same::<_, Short>(&paged);
        } else {
            let mut paged = Paged::<Brain>::new(&case, &pages);
            paged.has_logits = has_logits;
            if has_three { paged = paged.with_three_stages(); }
            if is_hostile { spoil(&mut paged, case.seed); }
            assert_same::<_, f32>(&paged);
        }
    }
}
