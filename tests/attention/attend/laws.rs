//! What must not show in the bits, and any input.

use lacuna::attention::{
    AttendPlan, AttendShape, LogBase, LogSumOrder, Logits, Mask, SegmentShape, Tokens,
};
use lacuna::kv::{KvLayout, KvLists, KvShape};
use lacuna::mma::Model;
use proptest::prelude::*;

use super::problem::*;
use crate::common::{self, Random};

/// The bits of two problems whose positions hold the same tokens.
#[track_caller]
fn assert_alike(one: &Problem<Brain>, other: &Problem<Brain>) {
    for queue in common::queues() {
        let [one, other] = [one, other].map(|problem| problem.attend::<f32>(&queue).unwrap());
        assert_results(&one, &other, "two of the same");
    }
}

#[test]
fn pages_of_any_size_and_layout_give_the_same_bits() {
    let case = Case { lengths: vec![300, 225, 1], n_heads: 2, ..Case::default() };
    let problem = case.build::<Brain>();
    assert_same::<_, f32>(&problem);
    for page_size in [1, 2, 96, 160, 224, 256] {
        for layout in [Layout::Nhd, Layout::Hnd, Layout::FusedHnd] {
            assert_alike(&problem, &Case { page_size, layout, ..case.clone() }.build());
        }
    }
}

#[test]
fn a_request_does_not_see_the_batch() {
    let parts = vec![
        Part {
            lists: KvLists::PerHead,
            has_counts: true,
            has_biases: true,
            ..Part::of(Tokens::Blocks { n_blocks: 40, block_size: 5 })
        },
        Part::of(Tokens::last(100)).masked(Mask::Causal),
    ];
    let case = Case {
        lengths: vec![300, 40, 129, 0, 8],
        n_heads: 2,
        n_queries: 2,
        parts,
        ..Case::default()
    };
    let problem = case.build::<Brain>();
    for queue in common::queues() {
        let all = problem.attend::<f32>(&queue).unwrap();
        let shape = problem.plan.shape();
        let [n_outputs, n_sums] =
            [shape.n_queries * shape.output_stride, shape.n_queries * shape.n_q_heads]
                .map(|n| n as usize);
        for requests in [vec![0], vec![4, 2], vec![1, 1, 0, 3]] {
            let some = problem.of_requests(&requests).attend::<f32>(&queue).unwrap();
            for (to, from) in requests.iter().enumerate() {
                let sums = |results: &Results<f32>, b: usize| {
                    results.log_sums[b * n_sums..(b + 1) * n_sums].to_vec()
                };
                assert_eq!(sums(&some, to), sums(&all, *from));
                let end = |results: &Results<f32>, b: usize| {
                    results.outputs.len().min((b + 1) * n_outputs)
                };
                let one = &some.outputs[to * n_outputs..end(&some, to)];
                let other = &all.outputs[from * n_outputs..end(&all, *from)];
                for (one, other) in one.iter().zip(other) {
                    assert_eq!(one.to_bits(), other.to_bits());
                }
            }
        }
    }
}

/// Lists of all blocks are the range, and a range in pieces is the range.
#[test]
fn the_same_tokens_by_other_segments_give_the_same_bits() {
    let n = 300;
    let dense = Case { lengths: vec![n], n_heads: 2, n_queries: 3, ..Case::default() };
    let of = |parts: Vec<Part>| {
        let parts = parts.into_iter().map(|part| part.masked(Mask::Causal)).collect();
        Case { parts, ..dense.clone() }.build::<Brain>()
    };
    let problem = of(vec![Part::of(Tokens::ALL)]);
    assert_same::<_, f32>(&problem);
    for block_size in [1, 7, 16, 64, 128] {
        let n_blocks = n.div_ceil(block_size) as i32;
        let all = Part::blocks(block_size.into(), (0..n_blocks).collect());
        assert_alike(&problem, &of(vec![all.clone()]));
        assert_alike(&problem, &of(vec![Part { lists: KvLists::PerHead, ..all }]));
    }
    for cuts in [[1, 2, 3], [16, 128, 129], [0, 150, 150], [5, 6, 299]] {
        let [a, b, c] = cuts;
        let range = |first, end| Part::of(Tokens::Range { first, end, last: u64::MAX });
        let pieces = vec![
            Part::of(Tokens::first(a)),
            range(a, b),
            Part::blocks(1, (b as i32..c as i32).collect()),
            Part::of(Tokens::last(u64::MAX).after(c)),
        ];
        assert_alike(&problem, &of(pieces));
    }
}

/// Queries that are decoded together see what each would see alone, also where their rows are of several sets of warps.
#[test]
fn queries_together_are_queries_one_by_one() {
    for (group, head_dim) in [(2, 32), (5, 32), (9, 64), (16, 48), (7, 144)] {
        let together = Case {
            lengths: vec![150],
            n_queries: 4,
            group,
            head_dim,
            parts: vec![Part::of(Tokens::ALL).masked(Mask::Causal)],
            ..Case::default()
        };
        let problem = together.build::<Brain>();
        let n_outputs = problem.plan.shape().output_stride as usize;
        let n_queries = problem.plan.shape().query_stride as usize;
        let (n_heads, n_elements) = (group as usize, (group * head_dim) as usize);
        for queue in common::queues() {
            let all = problem.attend::<f32>(&queue).unwrap();
            for i in 0..4 {
                let mut alone = Case { n_queries: 1, ..together.clone() }.build::<Brain>();
                alone.queries.copy_from_slice(&problem.queries[i * n_queries..][..n_elements]);
                alone.segments[0].lengths = vec![150 - 3 + i as u32];
                let alone = alone.attend::<f32>(&queue).unwrap();
                // How many positions there are decides the split: 147 to 150 of them all have two.
                assert_eq!(alone.log_sums, all.log_sums[n_heads * i..][..n_heads]);
                assert_eq!(alone.outputs[..n_elements], all.outputs[i * n_outputs..][..n_elements]);
            }
        }
    }
}

/// Two requests' three queries and two heads, each log-sum by the numbers of its request, query and head.
#[test]
fn log_sums_lie_as_their_order_says() {
    for (order, expected) in [
        (
            LogSumOrder::TokensHeads,
            ["000", "001", "010", "011", "020", "021", "100", "101", "110", "111", "120", "121"],
        ),
        (
            LogSumOrder::HeadsTokens,
            ["000", "010", "020", "100", "110", "120", "001", "011", "021", "101", "111", "121"],
        ),
        (
            LogSumOrder::BatchHeadsQueries,
            ["000", "010", "020", "001", "011", "021", "100", "110", "120", "101", "111", "121"],
        ),
    ] {
        for (place, numbers) in expected.iter().enumerate() {
            let [b, i, q] = [0, 1, 2].map(|n| u64::from(numbers.as_bytes()[n] - b'0'));
            assert_eq!(
                order.locate([6, 3, 2], [3 * b + i, q]),
                place as u64,
                "{order:?} {numbers}"
            );
        }
        let case = Case {
            lengths: vec![150, 20],
            n_queries: 3,
            log_sum_order: order,
            parts: vec![Part::of(Tokens::ALL).masked(Mask::Causal)],
            ..Case::default()
        };
        assert_same::<_, f32>(&case.build::<Brain>());
        let skips = Some(vec![0, 1]);
        assert_same::<_, f32>(&Problem { skips, ..case.build::<Brain>() });
    }
}

/// A list that names a token twice counts it twice: as a bias of ln 2 would.
#[test]
fn a_token_that_is_there_twice_counts_twice() {
    let list = |indices: &[i32]| {
        let parts = vec![Part::blocks(1, indices.to_vec())];
        Case { lengths: vec![9], head_dim: 16, group: 1, parts, ..Case::default() }.build::<Brain>()
    };
    let twice = list(&[3, 5, 5]);
    assert_same::<_, f32>(&twice);
    let mut weighted = list(&[3, 5, -1]);
    weighted.segments[0].biases = Some(vec![0.0, 2.0_f32.ln(), 0.0]);
    let [twice, weighted] = [twice, weighted].map(|problem| problem.expect::<f32>(Model::HOPPER));
    for (one, other) in twice.outputs[..16].iter().zip(&weighted.outputs) {
        assert!((one - other).abs() < 0.02, "{one} {other}");
    }
}

prop_compose! {
    fn any_tokens()(
        kind in 0..6_u32, n in 0..70_u64, block_size in 1..=20_u64, skip in 0..9_u64,
    ) -> Tokens {
        match kind {
            0 => Tokens::ALL,
            1 => Tokens::first(n),
            2 => Tokens::last(n).after(skip),
            3 => Tokens::Range { first: skip, end: n, last: 30 },
            _ => Tokens::Blocks { n_blocks: n / 4, block_size },
        }
    }
}

prop_compose! {
    pub(crate) fn any_part()(
        tokens in any_tokens(), is_per_head: bool, mask in 0..3_u32, window in 1..60_u64,
        has_counts: bool, has_biases: bool,
    ) -> Part {
        let lists = if is_per_head { KvLists::PerHead } else { KvLists::PerRequest };
        let mask = match mask {
            0 => Mask::None,
            1 => Mask::Causal,
            _ => Mask::Window(window),
        };
        let has_counts = has_counts && matches!(tokens, Tokens::Blocks { .. });
        Part { lists, mask, has_counts, has_biases, ..Part::of(tokens) }
    }
}

prop_compose! {
    pub(crate) fn any_case()(
        seed in 0..1_000_u64,
        lengths in proptest::collection::vec(0..200_u32, 1..4),
        n_heads in 1..3_u64, group in 1..=16_u64, n_queries in 1..=8_u64, head_dim in 1..=10_u64,
        page_size in 1..=33_u64, layout in 0..3_u32,
        parts in proptest::collection::vec(any_part(), 1..=4),
        log_sum_order in any_order(), has_cap: bool, has_sinks: bool,
    ) -> Case {
        Case {
            seed,
            lengths,
            n_heads,
            group: if n_queries > 2 { group.min(5) } else { group },
            n_queries,
            head_dim: 16 * head_dim,
            page_size,
            layout: [Layout::Nhd, Layout::Hnd, Layout::FusedHnd][layout as usize],
            parts,
            log_sum_order,
            soft_cap: has_cap.then_some(5.0),
            has_sinks,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_requests_are_the_reference_to_the_bit(case in any_case(), is_short: bool) {
        if is_short {
            assert_same::<_, Short>(&case.build::<Short>());
        } else {
            assert_same::<_, f32>(&case.build::<Brain>());
        }
    }
}

/// Sizes at the edges of what is allowed, each with the others; most of them pass.
#[test]
fn plans_of_extreme_sizes_count_right() {
    let mut random = Random(7);
    let mut n_passed = 0;
    for _ in 0..20_000 {
        let mut pick = |all: &[u64]| all[(random.next() % all.len() as u64) as usize];
        let batch = pick(&[0, 1, 2, 255, 4096, 65_535]);
        let n_heads = pick(&[1, 8, 128, 8191, 65_535]);
        let row_len = 16 * pick(&[1, 4, 8, 9, 16]);
        let page_size = pick(&[1, 16, 256]);
        let shape = KvShape {
            batch,
            n_heads,
            row_len,
            n_pages: pick(&[0, 1, (1 << 31) - 1]),
            page_size,
            table_stride: pick(&[0, 1, (1 << 26) / page_size]),
            page_stride: pick(&[0, 8, 1 << 14]),
            ..KvShape::default()
        };
        let Ok(layout) = KvLayout::new(shape) else { continue };
        let segments: Vec<_> = (0..pick(&[1, 2, 4]))
            .map(|_| {
                let tokens = match pick(&[0, 1, 2]) {
                    0 => Tokens::ALL,
                    1 => Tokens::last(pick(&[0, 1 << 20, u64::MAX])).after(pick(&[0, 2])),
                    _ => Tokens::Blocks {
                        n_blocks: pick(&[0, 1, 1 << 19, (1 << 26) - 1]),
                        block_size: pick(&[1, 128]),
                    },
                };
                let window = pick(&[1, (1 << 31) - 1]);
                let mask =
                    [Mask::None, Mask::Causal, Mask::Window(window)][pick(&[0, 1, 2]) as usize];
                SegmentShape { mask, ..SegmentShape::of(layout, tokens) }
            })
            .collect();
        let n_q_heads = n_heads * pick(&[1, 3, 16]);
        let stride = pick(&[n_q_heads * row_len, (1 << 28) - 8]);
        let shape = AttendShape {
            n_queries: pick(&[1, 3, 8]),
            query_stride: stride,
            output_stride: stride,
            ..AttendShape::of(&layout, n_q_heads)
        };
        let Ok(plan) = AttendPlan::new(shape, &segments) else { continue };
        n_passed += 1;
        let grid = plan.grid();
        assert!(grid.blocks[0] <= 64 && grid.blocks[1] < 65_536 && grid.blocks[2] < 65_536);
        assert!(grid.dynamic_shared_bytes <= 86 << 10, "12 KiB are the kernel's own");
        assert!(plan.workspace_len() >= plan.n_tickets());
        let n_rows =
            u128::from(batch) * u128::from(plan.n_heads()) * u128::from(plan.n_positions());
        let exact = (4 * n_rows + 6 * u128::from(plan.log_sums_len())) * u128::from(row_len);
        assert_eq!(u128::from(plan.least_bytes(4)), exact);
    }
    assert!(n_passed > 5_000, "{n_passed}");
}

proptest! {
    #[test]
    fn a_plan_of_any_sizes_never_panics(
        numbers in proptest::array::uniform16(any_size()), scale: f32, cap: Option<f32>,
        mask in 0..3_u32, is_range: bool, n_segments in 0..6_usize, log_sum_order in any_order(),
    ) {
        let [batch, n_queries, n_q_heads, head_dim, query_stride, output_stride, kv_batch, n_heads, row_len,
            n_pages, page_size, table_stride, first, end, last, window] = numbers;
        let shape = KvShape {
            batch: kv_batch, n_heads, row_len, n_pages, page_size, table_stride, ..KvShape::default()
        };
        let Ok(layout) = KvLayout::new(shape.nhd()) else { return Ok(()) };
        let tokens = if is_range {
            Tokens::Range { first, end, last }
        } else {
            Tokens::Blocks { n_blocks: first, block_size: end }
        };
        let mask = [Mask::None, Mask::Causal, Mask::Window(window)][mask as usize];
        let segment = SegmentShape { tokens, mask, ..SegmentShape::of(layout, Tokens::ALL) };
        let shape = AttendShape {
            batch, n_queries, n_q_heads, head_dim, query_stride, output_stride, log_sum_order,
            logits: Logits { scale, soft_cap: cap, base: LogBase::E },
        };
        if let Ok(plan) = AttendPlan::new(shape, &vec![segment; n_segments]) {
            let grid = plan.grid();
            let _ = grid;
            let _ = (plan.queries_len(), plan.outputs_len(), plan.least_bytes(4));
        }
    }
}

pub(crate) const ORDERS: [LogSumOrder; 3] =
    [LogSumOrder::TokensHeads, LogSumOrder::HeadsTokens, LogSumOrder::BatchHeadsQueries];

pub(crate) fn any_order() -> impl Strategy<Value = LogSumOrder> {
    (0..3_usize).prop_map(|i| ORDERS[i])
}

/// Small, at the edges of what is allowed, and far past them.
pub(crate) fn any_size() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => 0..20_u64,
        3 => (0..17_u64).prop_map(|n| 16 * n),
        1 => (0..64_u32).prop_map(|n| 1 << n),
        1 => any::<u64>(),
    ]
}
