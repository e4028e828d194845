//! `append_kv`.

pub(crate) mod problem;

use half::{bf16, f16};
use lacuna::Queue;
use lacuna::element::{Half, Real};
use lacuna::kv::{KvLayout, KvShape};
use lacuna::quant::{AppendPlan, AppendShape, Turn};
use proptest::prelude::*;

use self::problem::{Case, Left, Problem};
use crate::cache::Cache;
use crate::common;

#[track_caller]
fn assert_same<T: Half + Real>(problem: &Problem<T>) {
    let expected = problem.expected();
    for queue in common::queues() {
        assert_left(&problem.launch(&queue).unwrap(), &expected, &queue);
    }
}

#[track_caller]
fn assert_left(found: &Left, expected: &Left, queue: &Queue) {
    assert_eq!(found.appended, expected.appended, "on {}", queue.executor());
    for (found, expected) in found.rows.iter().zip(&expected.rows) {
        let first = found.iter().zip(expected).position(|(a, b)| a != b);
        assert_eq!(first, None, "the first element that differs, on {}", queue.executor());
    }
}

/// The row of a request's head, in bits.
fn row<T>(problem: &Problem<T>, rows: &[u16], [b, t, head]: [u64; 3]) -> Vec<u16> {
    let layout = problem.plan.shape().layout;
    let start = layout.locate(&problem.cache.page_table, b, t, head).unwrap();
    rows[start..start + layout.shape().row_len as usize].to_vec()
}

/// A step of decoding: each request's token is its next row, and nothing else changes.
#[test]
fn a_token_becomes_the_next_row() {
    let case = Case {
        n_tokens: 1,
        turn: Turn::None,
        gap: 0,
        has_counts: false,
        has_keeps: false,
        ..Case::default()
    };
    let problem = case.build::<bf16>();
    let left = problem.expected();
    assert_eq!(left.appended.new_lengths, [6, 1, 32]);
    assert_eq!(left.appended.dropped, [0; 3]);
    for (b, length) in case.lengths.iter().enumerate() {
        for head in 0..2 {
            for part in 0..2 {
                let at = 32 * (2 * b + head as usize);
                let new: Vec<u16> =
                    problem.tokens[part][at..at + 32].iter().map(|x| x.to_bits()).collect();
                let at = [b as u64, u64::from(*length), head];
                assert_eq!(row(&problem, &left.rows[part], at), new);
            }
        }
    }
    let before = problem.cache.rows.iter().flatten().map(|x| x.to_bits());
    let n_changed =
        left.rows.iter().flatten().zip(before).filter(|(after, before)| **after != *before).count();
    assert!(n_changed <= 3 * 2 * 2 * 32);
    assert_same(&problem);
}

/// What is kept follows in order, whatever lies between.
#[test]
fn kept_tokens_are_those_of_a_shorter_list() {
    let case = Case { lengths: vec![3], turn: Turn::None, has_counts: false, ..Case::default() };
    let problem = case.build::<bf16>();
    let keeps = problem.keeps.clone().unwrap();
    let kept: Vec<usize> = (0..20).filter(|t| keeps[*t] != 0).collect();
    assert!(kept.len() > 5 && kept.len() < 20);
    let all = problem.expected();
    assert_eq!(all.appended.new_lengths, [3 + kept.len() as u32]);
    let mut short = problem.clone();
    for (part, n) in [(0, 72), (1, 80)] {
        for (i, t) in kept.iter().enumerate() {
            let from = problem.tokens[part][n * t..n * t + 64].to_vec();
            short.tokens[part][n * i..n * i + 64].copy_from_slice(&from);
        }
    }
    short.keeps = None;
    short.counts = Some(vec![kept.len() as u32]);
    assert_eq!(short.expected(), all);
}

/// Turning by the angles of RoPE, in f64.
#[test]
fn keys_are_turned_by_the_angles_of_their_positions() {
    for (turn, rotary_dim) in [(Turn::Halves, 32), (Turn::Pairs, 32), (Turn::Halves, 16)] {
        let case = Case { turn, rotary_dim, gap: 0, ..Case::default() };
        let mut problem = case.build::<f16>();
        let half = rotary_dim as usize / 2;
        let angle = |position: usize, i: usize| {
            position as f64 * 10_000_f64.powf(-(i as f64) / half as f64)
        };
        for (position, row) in problem.cos_sin.chunks_mut(2 * half).enumerate() {
            for i in 0..half {
                row[i] = angle(position, i).cos() as f32;
                row[half + i] = angle(position, i).sin() as f32;
            }
        }
        (problem.counts, problem.keeps) = (None, None);
        let left = problem.expected();
        for t in 0..20_usize {
            let position = problem.positions.as_ref().unwrap()[t] as usize;
            let key = &problem.tokens[0][64 * t..64 * t + 32];
            let found = row(&problem, &left.rows[0], [0, 5 + t as u64, 0]);
            for c in 0..32 {
                let (i, other, sign) = match turn {
                    _ if c >= 2 * half => (0, c, 0.0),
                    Turn::Halves if c < half => (c, c + half, -1.0),
                    Turn::Halves => (c - half, c - half, 1.0),
                    _ if c % 2 == 0 => (c / 2, c + 1, -1.0),
                    _ => (c / 2, c - 1, 1.0),
                };
                let (x, y) = (f64::from(key[c]), f64::from(key[other]));
                let angle = angle(position, i);
                let exact = if sign == 0.0 { x } else { x * angle.cos() + sign * y * angle.sin() };
                let found = f64::from(f16::from_bits(found[c]));
                assert!((found - exact).abs() <= exact.abs() / 2048.0 + 1e-5, "{found} {exact}");
            }
        }
    }
}

/// Rows end before the first page that is none, and none of them is a hole.
#[test]
fn room_ends_at_the_first_page_that_is_none() {
    let case = Case {
        lengths: vec![5],
        n_tokens: 100,
        n_more_pages: 8,
        has_counts: false,
        has_keeps: false,
        ..Case::default()
    };
    let mut problem = case.build::<bf16>();
    for (hole, n) in [(0, 0), (1, 11), (3, 43), (6, 91), (7, 100)] {
        let table = problem.cache.page_table.clone();
        problem.cache.page_table[hole] = -1;
        let left = problem.expected();
        assert_eq!(left.appended.new_lengths, [5 + n]);
        assert_eq!(left.appended.dropped, [100 - n]);
        assert_same(&problem);
        problem.cache.page_table = table;
    }
    // The table's end.
    let short = Case { n_more_pages: 1, ..case }.build::<bf16>();
    assert_eq!(short.expected().appended.new_lengths, [32]);
    assert_eq!(short.expected().appended.dropped, [73]);
    assert_same(&short);
}

#[test]
fn turns_and_head_dimensions() {
    for (head_dim, rotary_dim) in [(16, 16), (64, 64), (128, 32), (80, 32), (96, 96), (256, 64)] {
        for turn in [Turn::None, Turn::Halves, Turn::Pairs] {
            let case = Case { head_dim, rotary_dim, turn, ..Case::default() };
            assert_same(&case.build::<bf16>());
            assert_same(&Case { is_hnd: false, has_positions: false, ..case }.build::<f16>());
        }
    }
    assert_same(&Case { head_dim: 8, turn: Turn::None, ..Case::default() }.build::<bf16>());
}

#[test]
fn tokens_around_blocks_and_tiles() {
    let small = Case { n_heads: 1, head_dim: 16, rotary_dim: 16, ..Case::default() };
    for n_tokens in [0, 1, 2, 31, 32, 33, 127, 128, 129] {
        for block_tokens in [1, 16, 128] {
            let case = Case {
                n_tokens,
                n_more_pages: 9,
                block_tokens: Some(block_tokens),
                ..small.clone()
            };
            assert_same(&case.build::<bf16>());
        }
    }
    for n_tokens in [1023, 1024, 1025, 2048, 2500] {
        let case = Case { n_tokens, n_more_pages: 200, lengths: vec![9, 700], ..small.clone() };
        assert_same(&case.build::<bf16>());
        assert_same(
            &Case { has_keeps: false, has_counts: false, has_positions: false, ..case.clone() }
                .build::<bf16>(),
        );
        assert_same(&Case { n_more_pages: 70, page_size: 1, ..case.clone() }.build::<bf16>());
        let mut holes = Case { page_size: 7, has_counts: false, ..case }.build::<bf16>();
        // In the first tile's rows, and in the second's.
        for at in [20, 160] {
            let mut holes = holes.clone();
            holes.cache.page_table[at] = -1;
            assert_same(&holes);
        }
        holes.cache.lengths = vec![u32::MAX, 1400];
        assert_same(&holes);
    }
}

#[test]
fn more_tiles_than_threads() {
    let problem = Case::of_many_tiles();
    assert_eq!(problem.expected().appended.new_lengths, [3 + 132_000_u32.div_ceil(97)]);
    assert_same(&problem);
}

#[test]
fn hostile_lengths_masks_positions_and_pages_stay_inside() {
    for seed in 0..12 {
        let case = Case { seed, is_hostile: true, n_more_pages: 4, ..Case::default() };
        assert_same(&case.build::<bf16>());
        let case = Case { turn: Turn::Pairs, has_positions: false, n_positions: 9, ..case };
        assert_same(&case.build::<f16>());
        let case = Case { n_tokens: 1300, page_size: 40, n_more_pages: 30, ..case };
        assert_same(&case.build::<bf16>());
    }
}

#[test]
fn every_schedule_and_both_kinds_of_fibres() {
    let case = Case { n_heads: 1, head_dim: 16, rotary_dim: 16, ..Case::default() };
    let long = Case { n_tokens: 1100, n_more_pages: 80, lengths: vec![3], ..case.clone() };
    for problem in [case.build::<bf16>(), long.build::<bf16>()] {
        let expected = problem.expected();
        for config in common::configs() {
            let queue = Queue::simt(config);
            assert_left(&problem.launch(&queue).unwrap(), &expected, &queue);
        }
    }
}

/// Blocks of any size leave the same, and so does a request without the others.
#[test]
fn grids_and_other_requests_change_nothing() {
    let case = Case { has_counts: false, n_tokens: 90, n_more_pages: 7, ..Case::default() };
    let problem = case.build::<bf16>();
    let expected = problem.expected();
    for queue in common::queues() {
        for block_tokens in [1, 8, 64, 128] {
            let plan = problem.plan.with_block_tokens(block_tokens).unwrap();
            let other = Problem { plan, ..problem.clone() };
            assert_left(&other.launch(&queue).unwrap(), &expected, &queue);
        }
        // The others keep nothing.
        let mut alone = problem.clone();
        let keeps = alone.keeps.as_mut().unwrap();
        keeps[..90].fill(0);
        keeps[180..].fill(0);
        let left = alone.launch(&queue).unwrap();
        assert_eq!(left.appended.new_lengths[1], expected.appended.new_lengths[1]);
        for t in 0..u64::from(expected.appended.new_lengths[1]) {
            for part in 0..2 {
                let at = [1, t, 1];
                let [found, expected] =
                    [&left, &expected].map(|left| row(&problem, &left.rows[part], at));
                assert_eq!(found, expected);
            }
        }
        let left = problem.launch_with(&queue, false).unwrap();
        assert_eq!(left.appended.dropped, [7; 3]);
        assert_eq!(left.rows, expected.rows);
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let shape = *Case::default().plan().unwrap().shape();
    for (shape, text) in [
        (
            AppendShape { n_tokens: (1 << 26) + 1, ..shape },
            "tokens of a request: 67108865 is outside 0..=2^26",
        ),
        (
            AppendShape { key_stride: 76, ..shape },
            "stride between keys, in elements: 76 is outside the multiples of 8 from a token's elements on",
        ),
        (
            AppendShape { value_stride: 56, ..shape },
            "stride between values, in elements: 56 is outside the multiples of 8 from a token's elements on",
        ),
        (
            AppendShape { key_stride: 1 << 45, ..shape },
            "elements of all keys: 2075877953241152 is outside 0..2^46",
        ),
        (
            AppendShape { rotary_dim: 24, ..shape },
            "elements of a key that are turned: 24 is outside the multiples of 16 up to a head's elements",
        ),
        (
            AppendShape { rotary_dim: 48, ..shape },
            "elements of a key that are turned: 48 is outside the multiples of 16 up to a head's elements",
        ),
        (AppendShape { n_positions: 0, ..shape }, "positions with angles: 0 is outside 1..=2^26"),
    ] {
        assert_eq!(AppendPlan::new(shape).unwrap_err().to_string(), text);
    }
    let plan = AppendPlan::new(shape).unwrap();
    for n in [0, 3, 256] {
        assert_eq!(
            plan.with_block_tokens(n).unwrap_err().to_string(),
            format!("tokens of a block: {n} is outside the powers of two up to 128")
        );
    }
    let rows = KvShape { tokens_per_row: 4, ..*shape.layout.shape() };
    let layout = KvLayout::new(rows).unwrap();
    assert_eq!(
        AppendPlan::new(AppendShape { layout, ..shape }).unwrap_err().to_string(),
        "tokens of a row: 4 is outside 1"
    );
    let queue = &common::queues()[0];
    let problem = Case::default().build::<bf16>();
    let short = Problem { keeps: Some(vec![1; 7]), ..problem.clone() };
    assert_eq!(short.launch(queue).unwrap_err().to_string(), "keeps: expected 60, got 7");
    let short = Problem { cos_sin: vec![1.0; 7], ..problem.clone() };
    assert_eq!(short.launch(queue).unwrap_err().to_string(), "cos_sin: expected 2048, got 7");
    let mut short = problem;
    short.cache.lengths.pop();
    assert_eq!(short.launch(queue).unwrap_err().to_string(), "lengths: expected 3, got 2");
}

prop_compose! {
    fn any_case()(
        seed in any::<u64>(),
        lengths in prop::collection::vec(0..100_u32, 1..4),
        n_tokens in prop_oneof![4 => 0..150_u64, 1 => 1000..1100_u64],
        n_heads in 1..4_u64,
        (turn, n_turned, n_kept) in (0..3_usize, 1..4_u64, 0..4_u64),
        page_size in prop::sample::select(vec![1_u64, 16, 100]),
        n_more_pages in 0..12_u64,
        n_positions in 1..300_u64,
        gap in (0..3_u64).prop_map(|n| 8 * n),
        block_tokens in prop::option::of((0..8_u64).prop_map(|n| 1 << n)),
        (is_hnd, has_counts, has_keeps, has_positions, is_hostile) in
            any::<(bool, bool, bool, bool, bool)>(),
    ) -> Case {
        let rotary_dim = 16 * n_turned;
        Case {
            seed, lengths, n_tokens, n_heads, head_dim: rotary_dim + 8 * n_kept, page_size,
            n_more_pages, is_hnd, turn: [Turn::None, Turn::Halves, Turn::Pairs][turn], rotary_dim,
            n_positions, gap, has_counts, has_keeps, has_positions, block_tokens, is_hostile,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_tokens_are_the_reference_to_the_bit(case in any_case(), is_short: bool) {
        if is_short {
            assert_same(&case.build::<f16>());
        } else {
            assert_same(&case.build::<bf16>());
        }
    }

    /// Tokens are appended or dropped, and the second half of them after the first is all of them.
    #[test]
    fn steps_together_are_one(case in any_case()) {
        let case = Case { is_hostile: false, ..case };
        let problem = case.build::<bf16>();
        let whole = problem.expected();
        let counts: Vec<u32> = problem.counts.clone().unwrap_or_else(|| {
            vec![u32::MAX; case.lengths.len()]
        });
        let n = case.n_tokens as usize;
        for (b, length) in case.lengths.iter().enumerate() {
            let kept = (0..n.min(counts[b] as usize)).filter(|t| {
                problem.keeps.as_ref().is_none_or(|keeps| keeps[b * n + t] != 0)
            });
            let Left { appended, .. } = &whole;
            prop_assert_eq!(
                appended.new_lengths[b] - length + appended.dropped[b],
                kept.count() as u32
            );
        }
        let positions: Vec<i32> = problem.positions.clone().unwrap_or_else(|| {
            case.lengths.iter().flat_map(|length| (0..n as i32).map(|t| *length as i32 + t)).collect()
        });
        let half = n as u32 / 2;
        let first: Vec<u32> = counts.iter().map(|count| half.min(*count)).collect();
        let step = Problem { counts: Some(first), positions: Some(positions), ..problem };
        let left = step.expected();
        let mut keeps = step.keeps.clone().unwrap_or_else(|| vec![1; n * counts.len()]);
        for keeps in keeps.chunks_mut(n.max(1)) {
            keeps.iter_mut().take(half as usize).for_each(|kept| *kept = 0);
        }
        let rows = left.rows.map(|rows| rows.into_iter().map(bf16::from_bits).collect());
        let cache = Cache { rows, lengths: left.appended.new_lengths, ..step.cache };
        let second =
            Problem { counts: Some(counts), keeps: Some(keeps), cache, ..step }.expected();
        prop_assert_eq!(&second.rows, &whole.rows);
        prop_assert_eq!(&second.appended.new_lengths, &whole.appended.new_lengths);
    }

    #[test]
    fn a_plan_of_any_sizes_never_panics(
        n_tokens: u64,
        key_stride: u64,
        value_stride: u64,
        rotary_dim: u64,
        n_positions: u64,
        shifts in any::<[u8; 5]>(),
    ) {
        let shape = *Case::default().plan().unwrap().shape();
        let [n, k, v, r, p] = shifts.map(|shift| u32::from(shift % 64));
        let shape = AppendShape {
            n_tokens: n_tokens >> n,
            key_stride: key_stride >> k << 3,
            value_stride: value_stride >> v << 3,
            rotary_dim: rotary_dim >> r,
            n_positions: n_positions >> p,
            ..shape
        };
        if let Ok(plan) = AppendPlan::new(shape) {
            let lens = [plan.keys_len(), plan.values_len(), plan.cos_sin_len(), plan.workspace_len()];
            prop_assert!(lens.iter().all(|len| *len < 1 << 46));
            prop_assert!(plan.grid().blocks[0] <= 1 << 26);
            prop_assert!(plan.least_bytes(plan.tokens_len(), true, true) < 1 << 50);
        }
    }
}
