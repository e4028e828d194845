//! `attend_low_rank`.

mod problem;

use lacuna::Queue;
use lacuna::attention::reference::HostLowRank;
use lacuna::attention::{LowRankPlan, LowRankShape, Mask, Tokens, Turn};
use lacuna::kv::KvLists;
use lacuna::mma::Model;
use lacuna::simt::Config;
use proptest::prelude::*;

use self::problem::*;
use crate::attend::laws::{ORDERS, any_order};
use crate::attend::problem::{Brain, Case, Part, Short, assert_results};
use crate::common;

#[test]
fn keys_are_made_of_factors_and_turned() {
    for turn in [Turn::None, Turn::Halves, Turn::Pairs] {
        for has_slots in [false, true] {
            let made = Made::<Brain>::new(&case(), LowRankShape { turn, ..SHAPE }, has_slots);
            assert_same::<_, f32>(&made);
        }
    }
    for (head_dim, rank) in [(16, 16), (48, 160), (128, 64), (112, 16)] {
        let case = Case { head_dim, n_queries: 3, has_sinks: true, ..case() };
        let shape = LowRankShape { rank, ..SHAPE };
        assert_same::<_, Short>(&Made::<Short>::new(&case, shape, true));
    }
    // The second segment, and no factors at all.
    let mut case = case();
    case.parts.swap(0, 1);
    assert_same::<_, f32>(&Made::<Brain>::new(&case, LowRankShape { segment: 1, ..SHAPE }, true));
    let none = LowRankShape { segment: 1, n_factors: 0, ..SHAPE };
    assert_same::<_, f32>(&Made::<Brain>::new(&case, none, false));
}

/// A basis of ones in the right places makes keys that are the factors, which `attend` may read as they are.
#[test]
fn an_identity_as_the_basis_gives_the_factors() {
    let part = Part::blocks(4, (0..10).rev().collect());
    let case = Case { lengths: vec![40], n_heads: 2, parts: vec![part], ..Case::default() };
    let shape = LowRankShape { turn: Turn::None, n_factors: 40, ..SHAPE };
    let mut made = Made::<Brain>::new(&case, shape, false);
    for (i, element) in made.basis.iter_mut().enumerate() {
        *element = Brain::from_f32(if i % 32 == i / 32 % 32 { 1.0 } else { 0.0 });
    }
    let layout = case.kv_layout().unwrap();
    let segment = &mut made.problem.segments[0];
    for (t, h) in (0..40).flat_map(|t| (0..2).map(move |h| (t, h))) {
        let start = layout.locate(&segment.page_table, 0, t, h).unwrap();
        let factors = &made.factors[t as usize * 32..][..32];
        segment.keys[start..start + 32].copy_from_slice(factors);
    }
    let stored = made.problem.expect::<f32>(Model::HOPPER);
    assert_results(&made.expect::<f32>(Model::HOPPER), &stored, "an identity");
    assert_same::<_, f32>(&made);
}

/// A key is turned as RoPE says, in f64 from the formula: which way, and which channels together.
#[test]
fn keys_are_turned_the_way_of_rope() {
    for (turn, partner) in [(Turn::Halves, 16), (Turn::Pairs, 1)] {
        let made = Made::<Brain>::new(&case(), LowRankShape { turn, ..SHAPE }, false);
        let low_rank = HostLowRank {
            plan: &made.plan,
            factors: &made.factors,
            basis: &made.basis,
            cos_sin: &made.cos_sin,
            value_indices: None,
        };
        let (head, row) = (1, 30);
        let product = |c: usize| -> f64 {
            let factors = &made.factors[row * 32..][..32];
            let basis = &made.basis[(head * 32 + c) * 32..][..32];
            let products = factors.iter().zip(basis);
            products.map(|(a, b)| f64::from(a.to_f32()) * f64::from(b.to_f32())).sum()
        };
        let key = low_rank.key(Model::HOPPER, 0, head, row);
        for i in 0..16 {
            let x = if partner == 1 { 2 * i } else { i };
            let angle = row as f64 * 100.0_f64.powf(-(i as f64) / 32.0);
            let (sine, cosine) = angle.sin_cos();
            let [a, b] = [product(x), product(x + partner)];
            for (c, exact) in [(x, a * cosine - b * sine), (x + partner, a * sine + b * cosine)] {
                let own = f64::from(key[c].to_f32());
                assert!((own - exact).abs() < 0.01 * exact.abs().max(0.5), "{own} {exact}");
            }
        }
    }
}

/// A cache of fewer rows than a request has tokens holds the values of those that are attended to.
#[test]
fn values_in_few_slots_are_of_any_token() {
    let part = Part::blocks(4, vec![10, 2, 15, 0]);
    let case = Case { lengths: vec![16], parts: vec![part], ..Case::default() };
    let mut made = Made::<Brain>::new(&case, SHAPE, true);
    made.problem.segments[0].lengths = vec![62];
    made.value_indices = Some(vec![3, 1, 0, 2]);
    assert_same::<_, f32>(&made);
    // Row 62 is none, and all others of the four blocks are there: with all weights alike, their mean.
    made.problem.queries.fill(Brain::from_f32(0.0));
    let results = made.expect::<f32>(Model::HOPPER);
    let log_sum = f32::from_bits(results.log_sums[0]);
    assert!((log_sum - 12.0_f32.ln()).abs() < 1e-5, "n_factors is 60: {log_sum}");
    assert_same::<_, f32>(&made);
}

#[test]
fn log_sums_of_all_orders() {
    for log_sum_order in ORDERS {
        let case = Case { n_queries: 3, log_sum_order, ..case() };
        assert_same::<_, f32>(&Made::<Brain>::new(&case, SHAPE, true));
    }
}

/// Turning changes no length.
#[test]
fn turned_keys_are_as_long() {
    let made = Made::<Brain>::new(&case(), LowRankShape { turn: Turn::Halves, ..SHAPE }, false);
    let low_rank = HostLowRank {
        plan: &made.plan,
        factors: &made.factors,
        basis: &made.basis,
        cos_sin: &made.cos_sin,
        value_indices: None,
    };
    // The length of each pair stays what it was.
    let still = Made::<Brain>::new(&case(), LowRankShape { turn: Turn::None, ..SHAPE }, false);
    let still = HostLowRank { plan: &still.plan, ..low_rank };
    for row in [0, 1, 30] {
        let turned = low_rank.key(Model::HOPPER, 0, 1, row);
        let key = still.key(Model::HOPPER, 0, 1, row);
        for i in 0..16 {
            let length = |key: &[Brain]| key[i].to_f32().hypot(key[16 + i].to_f32());
            let [one, other] = [length(&turned), length(&key)];
            assert!((one - other).abs() < 0.02 * other.max(0.1), "{row} {i}: {one} {other}");
        }
        assert_eq!(row == 0, turned == key);
    }
}

#[test]
fn hostile_lists_are_bounded() {
    assert_same::<_, f32>(&hostile());
}

/// The order of roundings in a turn, where nothing else is left.
#[test]
fn turns_round_as_they_must() {
    assert_same::<_, f32>(&cancelling());
}

#[test]
fn every_schedule_and_both_kinds_of_tensor_cores() {
    let made = Made::<Brain>::new(&case(), SHAPE, true);
    for mma in [Model::AMPERE, Model::HOPPER] {
        let expected = made.expect::<f32>(mma);
        for config in common::configs() {
            let what = format!("{:?} {:?}", config.schedule, config.fibres);
            let results = made.attend::<f32>(&Queue::simt(Config { mma, ..config })).unwrap();
            assert_results(&results, &expected, &what);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let plan = case().plan().unwrap();
    let refused = |shape| LowRankPlan::new(plan, shape).unwrap_err().to_string();
    for (shape, message) in [
        (
            LowRankShape { segment: 1, ..SHAPE },
            "segment of low rank: 1 is outside the segments of blocks",
        ),
        (
            LowRankShape { segment: u64::MAX, ..SHAPE },
            "segment of low rank: 18446744073709551615 is outside the segments of blocks",
        ),
        (
            LowRankShape { rank: 24, ..SHAPE },
            "rank of keys: 24 is outside the multiples of 16 up to 256",
        ),
        (
            LowRankShape { rank: 0, ..SHAPE },
            "rank of keys: 0 is outside the multiples of 16 up to 256",
        ),
        (
            LowRankShape { n_factors: u64::MAX, ..SHAPE },
            "rows of factors: 18446744073709551615 is outside 0..=2^26",
        ),
    ] {
        assert_eq!(refused(shape), message);
    }
    let long = Case { head_dim: 144, ..case() }.plan().unwrap();
    assert_eq!(
        LowRankPlan::new(long, SHAPE).unwrap_err().to_string(),
        "dimension of a head: 144 is outside the multiples of 16 up to 128"
    );
    let queue = Queue::simt(Config::default());
    let made = Made::<Brain>::new(&case(), SHAPE, true);
    let refused = |change: &dyn Fn(&mut Made<Brain>)| {
        let mut made = made.clone();
        change(&mut made);
        made.attend::<f32>(&queue).unwrap_err().to_string()
    };
    assert_eq!(refused(&|made| made.cos_sin.clear()), "cos_sin: expected 1920, got 0");
    assert_eq!(refused(&|made| made.factors.truncate(64)), "factors: expected 3840, got 64");
    assert_eq!(refused(&|made| made.basis.truncate(64)), "basis: expected 4096, got 64");
    assert_eq!(
        refused(&|made| made.value_indices = Some(vec![1])),
        "value_indices: expected 36, got 1"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn any_factors_are_the_reference_to_the_bit(
        seed in 0..1000_u64, lengths in proptest::collection::vec(0..150_u32, 1..3), group in 1..=8_u64,
        n_queries in 1..=4_u64, head_dim in 1..=4_u64, rank in 1..=4_u64, n_factors in 0..150_u64,
        n_blocks in 0..12_u64, block_size in 1..=9_u64, turn in 0..3_usize, has_slots: bool, has_counts: bool,
        is_per_head: bool, has_biases: bool, log_sum_order in any_order(),
    ) {
        let lists = if is_per_head { KvLists::PerHead } else { KvLists::PerRequest };
        let picked = Tokens::Blocks { n_blocks, block_size };
        let parts = vec![
            Part::of(Tokens::first(3)),
            Part { lists, has_counts, has_biases, ..Part::of(picked) },
            Part::of(Tokens::last(10)).masked(Mask::Causal),
        ];
        let case = Case {
            seed, lengths, group, n_queries, n_heads: 2, head_dim: 16 * head_dim, parts, log_sum_order,
            ..Case::default()
        };
        let turn = [Turn::None, Turn::Halves, Turn::Pairs][turn];
        let shape = LowRankShape { segment: 1, rank: 16 * rank, n_factors, turn };
        let made = Made::<Brain>::new(&case, shape, has_slots);
        assert_same::<_, f32>(&made);
    }
}
