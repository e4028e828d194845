//! `score_rows`, `vote_rows`, and both in one launch.

pub(crate) mod problem;

use half::{bf16, f16};
use lacuna::Queue;
use lacuna::element::{E4m3, E5m2};
use lacuna::kv::{KvLayout, KvShape};
use lacuna::select::reference::{Softmax, votes};
use lacuna::select::{
    GroupReduction, Score, ScoreKind, ScorePlan, ScoreShape, Together, VotePlan, VoteReduction,
    VoteRule,
};
use lacuna::simt::{Checks, Config, Fibres};
use proptest::prelude::*;

use self::problem::{CASE, Case, Key, Problem, to_bits};
use crate::common::{self, Random};

/// Scores, softmaxes, votes in two launches and in one: all as the reference says.
#[track_caller]
fn assert_all<Q: Score, K: Key, S: Score>(problem: &Problem<Q, K>) {
    let (scores, softmaxes) = problem.expect::<S>();
    for queue in common::queues() {
        let (found, found_softmaxes) = problem.score::<S>(&queue).unwrap();
        assert_eq!(to_bits(&found), to_bits(&scores), "{}", queue.executor());
        assert_eq!(found_softmaxes, softmaxes, "{}", queue.executor());
        let alone = problem.score_alone::<S>(&queue).unwrap();
        assert_eq!(to_bits(&alone), to_bits(&scores), "{}", queue.executor());
        if problem.plan.shape().reduction != GroupReduction::None {
            continue;
        }
        for together in [Together::QueryHead, Together::Group, Together::All] {
            for reduction in [VoteReduction::Sum, VoteReduction::Max] {
                let rule = VoteRule { together, reduction, stride: problem.plan.shape().n + 1 };
                let plan = VotePlan::new(&problem.plan, rule).unwrap();
                let expected = to_bits(&problem.expect_votes::<S, f32>(&plan));
                let votes = problem.vote::<S, f32>(&queue, &plan, &scores, &softmaxes).unwrap();
                assert_eq!(to_bits(&votes), expected, "{together:?} {reduction:?}");
                if !problem.plan.fits_on_chip(&plan) {
                    continue;
                }
                let (found, votes) = problem.score_and_vote::<S, f32>(&queue, &plan).unwrap();
                assert_eq!(to_bits(&found), to_bits(&scores));
                assert_eq!(to_bits(&votes), expected, "{together:?} {reduction:?} in one launch");
            }
        }
    }
}

#[test]
fn every_kind_and_reduction() {
    for kind in [ScoreKind::Dot, ScoreKind::Box] {
        for reduction in
            [GroupReduction::None, GroupReduction::Max, GroupReduction::Sum, GroupReduction::Mean]
        {
            assert_all::<f32, bf16, f32>(&Case { kind, reduction, ..CASE }.build());
        }
    }
}

#[test]
fn every_type_of_keys_queries_and_scores() {
    for kind in [ScoreKind::Dot, ScoreKind::Box] {
        let case = Case { kind, n: 40, lengths: [40, 3, 0], ..CASE };
        assert_all::<bf16, bf16, bf16>(&case.build());
        assert_all::<f16, f16, f16>(&case.build());
        assert_all::<f32, f16, bf16>(&case.build());
        let scaled = Problem { key_scale: 0.037, ..case.build::<bf16, E4m3>() };
        assert_all::<bf16, E4m3, f32>(&scaled);
        let scaled = Problem { key_scale: 1.3e-4, ..case.build::<f16, E5m2>() };
        assert_all::<f16, E5m2, bf16>(&scaled);
    }
}

#[test]
fn every_group_and_dimension() {
    for group in [1, 2, 3, 4, 5, 7, 8, 9, 16] {
        let case = Case { group, n_heads: 1, lengths: [70, 1, 33], n: 70, ..CASE };
        assert_all::<bf16, bf16, f32>(&case.build());
    }
    for head_dim in [8, 24, 64, 72, 96, 128, 192, 256] {
        for kind in [ScoreKind::Dot, ScoreKind::Box] {
            let case = Case { head_dim, kind, lengths: [70, 1, 33], n: 70, n_heads: 1, ..CASE };
            assert_all::<bf16, bf16, f32>(&case.build());
        }
    }
    let case = Case { head_dim: 512, lengths: [70, 1, 33], n: 70, n_heads: 1, ..CASE };
    assert_all::<bf16, bf16, f32>(&case.build());
}

#[test]
fn sizes_around_a_tile() {
    for n in [0, 1, 31, 128, 255, 256, 257, 511, 512, 513, 700] {
        let case =
            Case { lengths: [n, n / 2, n + 9], n: u64::from(n), n_heads: 1, group: 2, ..CASE };
        assert_all::<bf16, bf16, f32>(&case.build());
        let many_queries = Case { group: 9, head_dim: 8, ..case };
        assert_all::<bf16, bf16, f32>(&many_queries.build());
    }
}

#[test]
fn every_layout_gives_the_same_bits() {
    let expected = CASE.build::<bf16, bf16>().expect::<f32>();
    for page_size in [1, 2, 7, 16, 64, 96, 256] {
        for (is_hnd, is_fused) in [(false, false), (false, true), (true, false), (true, true)] {
            let case = Case { page_size, is_hnd, is_fused, ..CASE };
            let problem = case.build::<bf16, bf16>();
            assert_eq!(problem.expect::<f32>(), expected, "{case:?}");
            for queue in common::queues() {
                assert_eq!(problem.score::<f32>(&queue).unwrap(), expected, "{case:?}");
            }
        }
    }
}

/// Query heads read the keys of head `q / group`, not `q % n_heads`.
#[test]
fn each_group_reads_its_own_head_of_keys() {
    let mut problem = Case { lengths: [40; 3], n: 40, ..CASE }.build::<bf16, bf16>();
    let layout = problem.plan.shape().layout;
    problem.queries.fill(bf16::ONE);
    for b in 0..3 {
        for (t, h) in (0..40).flat_map(|t| [(t, 0), (t, 1)]) {
            let start = layout.locate(&problem.page_table, b, t, h).unwrap();
            problem.keys[start..][..64].fill(bf16::from_f32(h as f32 + 1.0));
        }
    }
    for queue in common::queues() {
        let (scores, _) = problem.score::<f32>(&queue).unwrap();
        for (q, row) in scores.chunks(43).enumerate() {
            assert_eq!(row[0], if q % 8 < 4 { 64.0 } else { 128.0 }, "row {q}");
        }
    }
}

#[test]
fn hostile_pages_lengths_and_numbers() {
    let mut problem = CASE.build::<bf16, bf16>();
    let n_pages = problem.plan.shape().layout.shape().n_pages as i32;
    problem.page_table[3] = -1;
    problem.page_table[5] = n_pages;
    problem.page_table[6] = i32::MAX;
    problem.page_table[7] = i32::MIN;
    problem.lengths = vec![u32::MAX, 1, 4_000_000_000];
    assert_all::<bf16, bf16, f32>(&problem);
    let (scores, _) = problem.expect::<f32>();
    assert_eq!(scores[3 * 16], f32::NEG_INFINITY);

    // Pages that are all none: nothing to weigh.
    problem.page_table.fill(-1);
    assert_all::<bf16, bf16, bf16>(&problem);
    let (_, softmaxes) = problem.expect::<bf16>();
    assert!(softmaxes.iter().all(|bits| Softmax::from_bits(*bits).reciprocal == 0.0));

    let mut problem = CASE.build::<bf16, bf16>();
    let specials = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40, -0.0];
    for (idx, key) in problem.keys.iter_mut().enumerate().filter(|(idx, _)| idx % 91 == 0) {
        *key = bf16::from_f32(specials[idx / 91 % specials.len()]);
    }
    assert_all::<bf16, bf16, f32>(&problem);
    assert_all::<bf16, bf16, f16>(&problem);
    problem.queries[3] = bf16::NAN;
    problem.queries[700] = bf16::INFINITY;
    assert_all::<bf16, bf16, bf16>(&problem);
    for reduction in [GroupReduction::Max, GroupReduction::Mean] {
        let plan = ScorePlan::new(ScoreShape { reduction, ..*problem.plan.shape() }).unwrap();
        assert_all::<bf16, bf16, f32>(&Problem { plan, ..problem.clone() });
    }
    let mut problem = CASE.build::<bf16, E4m3>();
    for key in problem.keys.iter_mut().step_by(777) {
        key.0 |= 0x7F;
    }
    assert_all::<bf16, E4m3, f32>(&problem);
}

#[test]
fn skipped_requests_are_left_alone() {
    let problem = CASE.build::<bf16, bf16>();
    assert_all::<bf16, bf16, f32>(&Problem { skips: Some(vec![0, 7, 1]), ..problem.clone() });
    assert_all::<bf16, bf16, f32>(&Problem { skips: Some(vec![1, 1, 0]), ..problem });
}

#[test]
fn summaries_have_a_row_for_several_tokens() {
    let case = Case { lengths: [33; 3], n: 33, kind: ScoreKind::Box, ..CASE };
    let problem = case.build::<bf16, bf16>().with_tokens_per_row(16);
    // 33 rows, 2 and none.
    assert_all::<bf16, bf16, f32>(&Problem { lengths: vec![16 * 32 + 1, 32, 0], ..problem });
}

#[test]
fn a_pool_without_pages() {
    assert_all::<bf16, bf16, f32>(&CASE.build::<bf16, bf16>().without_pages());
    assert_all::<bf16, E5m2, bf16>(&CASE.build::<bf16, E5m2>().without_pages());
}

#[test]
fn every_schedule_and_fibre_gives_the_same_bits() {
    let case = Case { lengths: [300, 5, 0], n_heads: 1, ..CASE };
    let problem = case.build::<bf16, bf16>();
    let expected = problem.expect::<f32>();
    let rule = VoteRule { together: Together::All, reduction: VoteReduction::Sum, stride: CASE.n };
    let plan = VotePlan::new(&problem.plan, rule).unwrap();
    let expected_votes = problem.expect_votes::<f32, f32>(&plan);
    assert!(problem.plan.fits_on_chip(&plan));
    for schedule in common::SCHEDULES {
        for fibres in [Fibres::Native, Fibres::Portable] {
            for seed in 0..2 {
                let checks = Checks::ALL;
                let config = Config { schedule, fibres, seed, checks, ..Config::default() };
                let queue = Queue::simt(config);
                assert_eq!(problem.score::<f32>(&queue).unwrap(), expected);
                let (scores, votes) = problem.score_and_vote::<f32, f32>(&queue, &plan).unwrap();
                assert_eq!((&scores, &votes), (&expected.0, &expected_votes));
            }
        }
    }
}

#[test]
fn a_request_alone_and_among_others_gives_the_same() {
    let together = CASE.build::<bf16, bf16>().expect::<f32>().0;
    let problem = CASE.build::<bf16, bf16>();
    let shape = *problem.plan.shape();
    let kv = *shape.layout.shape();
    for queue in common::queues() {
        for b in 0..3 {
            let layout = KvLayout::new(KvShape { batch: 1, ..kv }).unwrap();
            let (n_query, n_table) = (shape.query_stride as usize, kv.table_stride as usize);
            let n_row = (shape.n_q_heads * shape.score_stride) as usize;
            let alone = Problem {
                plan: ScorePlan::new(ScoreShape { layout, ..shape }).unwrap(),
                queries: problem.queries[b * n_query..][..n_query - 8].to_vec(),
                page_table: problem.page_table[b * n_table..][..n_table].to_vec(),
                lengths: vec![problem.lengths[b]],
                ..problem.clone()
            };
            let (scores, _) = alone.score::<f32>(&queue).unwrap();
            assert_eq!(to_bits(&scores), to_bits(&together[b * n_row..][..scores.len()]));
        }
    }
}

/// Softmaxes and votes are what f64 says, within the units of f32.
#[test]
fn votes_are_near_what_exact_softmaxes_give() {
    let problem = Case { lengths: [300; 3], ..CASE }.build::<bf16, bf16>();
    let rule = VoteRule { together: Together::All, reduction: VoteReduction::Sum, stride: CASE.n };
    let plan = VotePlan::new(&problem.plan, rule).unwrap();
    let votes = problem.expect_votes::<f32, f32>(&plan);
    for b in 0..3 {
        let heads = problem.scored().request::<f32>(&problem.plan, b);
        let mut exact = vec![0.0_f64; 300];
        for head in &heads {
            let weights: Vec<f64> = head.iter().map(|s| (f64::from(*s) / 8.0).exp()).collect();
            let sum: f64 = weights.iter().sum();
            exact.iter_mut().zip(weights).for_each(|(all, weight)| *all += weight / sum);
        }
        for (vote, exact) in votes[b * 300..][..300].iter().zip(exact) {
            assert!((f64::from(*vote) - exact).abs() < 4e-6 * exact.max(1e-3), "{vote} {exact}");
        }
    }
}

/// Far below the greatest, all alike, and beyond what is told apart.
#[test]
fn softmaxes_of_extreme_scores() {
    let scale = std::f32::consts::LOG2_E;
    for (scores, expected) in [
        (vec![], (-(1 << 30), 0.0)),
        (vec![f32::NEG_INFINITY; 9], (-(1 << 30), 0.0)),
        (vec![f32::NAN, f32::NEG_INFINITY], (-(1 << 30), 0.0)),
        (vec![0.0; 1024], (0, 1.0 / 1024.0)),
        (vec![f32::INFINITY, 1.0, f32::MAX], (1 << 22, 0.5)),
        (vec![-2e38, -1e38], (-(1 << 22), 0.5)),
        // In tiles far apart.
        ([vec![-1e4; 256], vec![0.0; 2]].concat(), (0, 0.5)),
    ] {
        let Softmax { greatest, reciprocal } = Softmax::of(&scores, scale);
        assert_eq!((greatest, reciprocal), expected, "{:?}", scores.first());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_shape_gives_what_the_reference_gives(
        seed: u64, lengths in [0_u32..600, 0_u32..300, 0_u32..40], n_heads in 1_u64..4, group in 1_u64..17,
        head_dim in 1_u64..17, page_size in 1_u64..70, flags: [bool; 3], n in 0_u64..600, reduction in 0..4,
    ) {
        let reduction = [GroupReduction::None, GroupReduction::Max, GroupReduction::Sum, GroupReduction::Mean]
            [reduction as usize];
        let kind = if flags[2] { ScoreKind::Box } else { ScoreKind::Dot };
        let case = Case {
            seed, lengths, n_heads, group, head_dim: 8 * head_dim, page_size, is_hnd: flags[0],
            is_fused: flags[1], n, kind, reduction,
        };
        assert_all::<bf16, bf16, bf16>(&case.build());
    }

    /// Of the reference alone: weights that add up to one.
    #[test]
    fn a_softmax_adds_up_to_one(seed: u64, n in 1_usize..2000, spread in 0.1_f32..300.0) {
        let mut random = Random(seed);
        let scores: Vec<f32> = (0..n).map(|_| random.number() * spread).collect();
        let softmax = Softmax::of(&scores, 1.0);
        let weights: Vec<f32> = votes(&[(&*scores, softmax)], 1.0, VoteReduction::Sum);
        let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        prop_assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        prop_assert!(weights.iter().all(|weight| (0.0..=1.0).contains(weight)));
    }

    #[test]
    fn no_shape_makes_a_plan_panic(numbers: [u64; 16], kind: bool, reduction: bool) {
        let [batch, n_heads, row_len, n_pages, page_size, table_stride, tokens_per_row, page_stride, token_stride,
            head_stride, n_q_heads, query_stride, n, score_stride, small, scale] = numbers;
        // Some of each pass.
        let pick = |value: u64, idx: u32| if small >> idx & 1 == 0 { value } else { value % 9 * 8 };
        let shape = KvShape {
            batch: pick(batch, 0), n_heads: pick(n_heads, 1), row_len: pick(row_len, 2), n_pages: pick(n_pages, 3),
            page_size: pick(page_size, 4), table_stride: pick(table_stride, 5), tokens_per_row: pick(tokens_per_row, 6),
            page_stride: pick(page_stride, 7), token_stride: pick(token_stride, 8), head_stride: pick(head_stride, 9),
        };
        let Ok(layout) = KvLayout::new(shape) else { return Ok(()) };
        let Ok(plan) = ScorePlan::new(ScoreShape {
            layout, n_q_heads: pick(n_q_heads, 10), query_stride: pick(query_stride, 11), n: pick(n, 12),
            score_stride: pick(score_stride, 13), softmax_scale: f32::from_bits(scale as u32),
            kind: if kind { ScoreKind::Box } else { ScoreKind::Dot },
            reduction: if reduction { GroupReduction::None } else { GroupReduction::Max },
        }) else { return Ok(()) };
        let _ = (plan.grid(), plan.workspace_len(), plan.scores_len(), plan.least_bytes(1024, 4, 4));
        for together in [Together::QueryHead, Together::Group, Together::All] {
            let rule = VoteRule { together, reduction: VoteReduction::Max, stride: pick(score_stride, 14) };
            let Ok(vote) = VotePlan::new(&plan, rule) else { continue };
            let _ = (vote.grid(), vote.votes_len(), vote.least_bytes(4, 4), plan.fits_on_chip(&vote));
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let refused = |case: Case| case.plan().unwrap_err().to_string();
    assert_eq!(
        refused(Case { group: 17, ..CASE }),
        "query heads of a head of keys: 17 is outside 1..=16"
    );
    assert_eq!(
        refused(Case { head_dim: 264, kind: ScoreKind::Box, ..CASE }),
        "dimension of a head: 264 is outside the multiples of 8 up to 512, of boxes up to 256"
    );
    assert_eq!(refused(Case { n: 1 << 24, ..CASE }), "rows to score: 16777216 is outside 0..2^24");
    let queue = Queue::simt(Config::default());
    let problem = CASE.build::<bf16, bf16>();
    let mut short = problem.clone();
    short.queries.pop();
    assert_eq!(
        short.score::<f32>(&queue).unwrap_err().to_string(),
        "queries: expected 1552, got 1551"
    );
    let plan = ScorePlan::new(ScoreShape { softmax_scale: -1.0, ..*problem.plan.shape() });
    assert_eq!(
        plan.unwrap_err().to_string(),
        "scale of a softmax, as the bits of f32: 3212836864 is outside what is above 0 and up to 1e6"
    );
    let case = Case { n: 100_000, ..CASE };
    let rule = VoteRule { together: Together::All, reduction: VoteReduction::Sum, stride: 100_000 };
    let plan = VotePlan::new(&case.plan().unwrap(), rule).unwrap();
    assert_eq!(
        case.build::<bf16, bf16>()
            .score_and_vote::<f32, f32>(&queue, &plan)
            .unwrap_err()
            .to_string(),
        "rows to score and vote over: 100000 is outside what fits on chip; score and vote in two launches"
    );
    let plan = Case { reduction: GroupReduction::Max, ..CASE }.plan().unwrap();
    assert_eq!(
        VotePlan::new(&plan, rule).unwrap_err().to_string(),
        "rows of scores of a vote: 2 is outside those of all query heads"
    );
}
