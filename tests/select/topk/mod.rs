//! `topk_rows`.

mod laws;
mod problem;

use half::{bf16, f16};
use lacuna::Queue;
use lacuna::select::{MAX_PICKS, Order, Rule, TopkPages, TopkPlan, TopkShape};
use lacuna::simt::{Checks, Config, Fibres};

use self::problem::*;
use crate::common;

#[test]
fn sizes_around_a_block_and_the_ends() {
    for n in [1, 2, 7, 8, 9, 31, 32, 33, 511, 512, 513, 1023, 1025] {
        for k in [0, 1, n - 1, n, n + 1, 2 * n] {
            assert_same(&Problem::new(&[few_values(n, n as u64)], k));
            let problem = Problem::new(&[brains(&few_values(n, n as u64))], k);
            assert_same(&problem.with_order(Order::Score));
        }
    }
    let nothing = Problem::<f32>::new(&[], 5);
    assert_same(&nothing);
    // Rows without scores.
    for rule in [Rule::Largest, Rule::Mass { share: 1.0 }, Rule::AtLeast { least: 0.0 }] {
        let empty = Problem::<f32>::new(&[vec![], vec![]], 2).with_rule(rule);
        assert_same(&Problem { counts_asked: Some(vec![3, 0]), ..empty });
    }
}

#[test]
fn all_equal_scores_give_the_first_and_the_forced() {
    for value in [0.0_f32, f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
        for order in [Order::Index, Order::Score] {
            let problem = Problem::new(&[vec![value; 900]], 20).with_forced(3, 4).with_order(order);
            let mut expected: Vec<_> = (0..3).chain(896..900).chain(3..16).collect();
            if order == Order::Index {
                expected.sort_unstable();
            }
            assert_eq!(problem.expect().indices, expected);
            assert_all_same(&problem);
        }
    }
    // Every candidate forced, and more of them than places.
    let problem = Problem::new(&[many_values(900, 1)], 7).with_forced(500, 500);
    assert_eq!(problem.expect().indices, [0, 1, 2, 3, 4, 5, 6]);
    for rule in [Rule::Largest, Rule::Mass { share: 0.1 }, Rule::Percentile { percent: 100.0 }] {
        assert_all_same(&problem.clone().with_rule(rule));
    }
}

/// What others' kernels failed at: a plateau of zeros behind few others, and bins that overflow fixed buffers.
#[test]
fn plateaus_and_crowded_bins() {
    let mut relu = vec![0.0_f32; 5000];
    for i in (0..5000).step_by(97) {
        relu[i] = 1.0 + i as f32;
    }
    assert_all_same(&Problem::new(&[relu], 600));
    // All of one octave, and of one bf16 number.
    let crowded: Vec<f32> = (0..5000).map(|i| 1.0 + (i * 7919 % 5000) as f32 * 1e-4).collect();
    assert_all_same(&Problem::new(&[crowded], 2100));
    let close: Vec<f32> = (0..20_000)
        .map(|i| f32::from_bits(1.0_f32.to_bits() + (i * 7919 % 20_000) % 300))
        .collect();
    assert_all_same(&Problem::new(std::slice::from_ref(&close), 2048));
    assert_all_same(&Problem::new(&[close], 2048).with_rule(Rule::Mass { share: 0.05 }));
}

#[test]
fn rows_that_do_not_fit_on_chip() {
    let row = many_values(60_001, 7);
    let problem = Problem::new(std::slice::from_ref(&row), 2048);
    assert_same(&problem);
    let brains = convert(&problem, bf16::from_f32);
    assert_same(&Problem { shape: TopkShape { k: MAX_PICKS.into(), ..brains.shape }, ..brains });
    // One bin holds everything, and all but one tie.
    let mut flat = vec![1.0_f32; 60_001];
    flat[59_999] = f32::from_bits(1.0_f32.to_bits() + 1);
    let flat = Problem::new(&[flat], 4000).with_forced(1, 1);
    assert_same(&flat);
    assert_same(&flat.with_rule(Rule::Mass { share: 0.06 }).with_order(Order::Score));
    // From within a vector on.
    let masses = Problem::new(&[weights(60_001, 3)], 3000);
    let masses = Problem { starts: Some(vec![3]), ..masses }.with_forced(5, 9);
    assert_all_same(&masses.clone().with_rule(Rule::Mass { share: 0.9 }));
    assert_all_same(&masses.with_rule(Rule::AtLeast { least: 0.9 }).with_order(Order::Score));
}

/// Slices of 256 candidates of 16 bits, or 128: the end of a row in the middle of one, at its ends, and slices without
/// candidates.
#[test]
fn slices_of_a_row_end_anywhere() {
    let rows: Vec<_> = (0..4).map(|row| few_values(2048, row)).collect();
    let problem = Problem::new(&rows, 90);
    for lengths in [[2048, 2047, 1793, 1792], [1791, 300, 257, 256], [255, 33, 1, 0]] {
        let problem = Problem {
            lengths: Some(lengths.to_vec()),
            starts: Some(vec![0, 3, 8, 255]),
            ..problem.clone()
        };
        for order in [Order::Index, Order::Score] {
            let problem = problem.clone().with_order(order).with_forced(3, 300);
            assert_same_by(&convert(&problem, bf16::from_f32), &[1, 2, 3, 8, 16]);
            let problem = problem.with_rule(Rule::Mass { share: 0.9 });
            assert_same_by(&problem, &[1, 2, 3, 8, 16]);
        }
    }
    // More picks than a slice has, and no more places than those of the first slices.
    for k in [2048, 2000, 700, 256] {
        let problem = Problem::new(&rows, k);
        assert_same_by(&convert(&problem, f16::from_f32), &[1, 3, 8]);
        assert_same_by(&problem.clone().with_rule(Rule::AtLeast { least: 0.0 }), &[1, 8]);
        let problem = problem.with_rule(Rule::Percentile { percent: 20.0 });
        assert_same_by(&problem.with_order(Order::Score), &[1, 8]);
    }
}

/// What the cut takes of its ties is the first slices', whichever they are in.
#[test]
fn ties_lie_in_one_slice_or_across_all() {
    let mut one = vec![0.0_f32; 2048];
    one[600..800].fill(1.0);
    one[1900] = 2.0;
    let all: Vec<f32> = (0..2048).map(|i| if i % 3 == 0 { 1.0 } else { -1.0 }).collect();
    for row in [one, all] {
        let problem = Problem::new(&[row], 150);
        for rule in [Rule::Largest, Rule::Mass { share: 0.3 }, Rule::AtLeast { least: 1.0 }] {
            for order in [Order::Index, Order::Score] {
                let problem = problem.clone().with_rule(rule).with_order(order);
                assert_same_by(&problem, &[1, 2, 3, 8]);
                assert_same_by(&convert(&problem, bf16::from_f32), &[1, 2, 3, 8]);
            }
        }
    }
}

/// By every rule, with no places, few and many; and of no more than are asked for.
#[test]
fn a_mask_is_bounded_by_nothing_but_what_is_asked() {
    let rows = [weights(10_000, 3), few_values(10_000, 4)];
    let n_marks = |problem: &Problem<f32>| -> usize {
        let kept = problem.clone().with_mask(true).expect().kept;
        kept.into_iter().map(usize::from).sum()
    };
    for (rule, at_least) in [
        (Rule::Largest, 8192),
        (Rule::Mass { share: 1.0 }, 9000),
        (Rule::AtLeast { least: 1e-20 }, 9000),
        (Rule::Percentile { percent: 5.0 }, 9500),
    ] {
        for (i, k) in [0, 100, 8192].into_iter().enumerate() {
            for asked in [None, Some(vec![9000, 0]), Some(vec![50, u32::MAX])] {
                let (counts_asked, starts) = (asked, Some(vec![0, 13]));
                let problem = Problem { counts_asked, starts, ..Problem::new(&rows, k) };
                let problem = problem.with_rule(rule).with_forced(2, 5);
                assert_same_by(&problem, &[[1, 3, 8][i]]);
                assert_same_by(&convert(&problem, bf16::from_f32), &[[4, 1, 2][i]]);
            }
        }
        let problem = Problem::new(&rows[..1], 8192).with_rule(rule);
        assert!((at_least..10_000).contains(&n_marks(&problem)), "{rule:?}");
        let asked = Problem { counts_asked: Some(vec![8888]), ..problem };
        assert_eq!(n_marks(&asked), 8888, "{rule:?}");
    }
    // Of nothing, and of one candidate in the middle of a row.
    for (start, length) in [(0, 0), (10_000, 9), (u32::MAX, 9), (4321, 1), (9999, 1), (0, 1)] {
        let starts = Some(vec![start]);
        let problem =
            Problem { starts, ..Problem::new(&rows[..1], 4) }.with_lengths(&[length], 1, 1);
        assert_eq!(n_marks(&problem), usize::from(length == 1));
        assert_same_by(&problem, &[1, 3]);
        assert_same_by(&problem.with_rule(Rule::AtLeast { least: -1.0 }), &[1, 3]);
    }
}

/// As a cache has them: of several heads together, and of scores that stand for pages.
#[test]
fn lengths_are_those_of_requests_in_tokens() {
    let rows: Vec<_> = (0..5).map(|row| few_values(64, row)).collect();
    let many = 1 << 40;
    for (lengths, rows_per_request, tokens_per_score, counts) in [
        (&[1024, 1023, 0][..], 2, 16, [64, 64, 64, 64, 0]),
        (&[17, 16, 15], 2, 16, [2, 2, 1, 1, 1]),
        (&[u32::MAX, 1], 3, 7, [64, 64, 64, 1, 1]),
        (&[63], 5, 1, [63; 5]),
        (&[u32::MAX], many, (1 << 31) - 1, [3; 5]),
        (&[u32::MAX - 1], many, (1 << 31) - 1, [2; 5]),
    ] {
        let pages = TopkPages { n_pages: 40, page_size: 8, table_stride: 7 };
        let mut problem =
            Problem::new(&rows, 64).with_lengths(lengths, rows_per_request, tokens_per_score);
        problem.page_table = Some((0..7 * lengths.len() as i32).map(|i| i * 11 % 43).collect());
        problem.shape.pages = Some(pages);
        assert_eq!(problem.expect().counts, counts);
        assert_same(&problem);
    }
}

/// The grid is the length's alone, and a row of 128 Ki stays on chip.
#[test]
fn long_rows_have_clusters_where_the_queue_has() {
    let plan = |n, k| TopkPlan::new(TopkShape::of::<bf16>(3, n, k)).unwrap();
    for (n, n_blocks) in [(1, 1), (16_383, 2), (16_000, 1), (40_000, 4), (1 << 17, 8), (1 << 30, 8)]
    {
        let grid = plan(n, 99).cluster_grid(16);
        assert_eq!((grid.cluster_blocks, grid.blocks), (n_blocks, [3 * n_blocks, 1, 1]), "{n}");
        let fewer = plan(n, 99).cluster_grid(4);
        assert_eq!(fewer.cluster_blocks, n_blocks.min(4));
        assert_eq!(plan(n, 99).cluster_grid(1), plan(n, 99).grid());
    }
    let grid = plan(1 << 17, 2048).cluster_grid(8);
    assert_eq!((grid.threads, grid.dynamic_shared_bytes), ([1024, 1, 1], 66_048));
    let other = plan(1 << 17, 2048).with_blocks(3).unwrap();
    assert_eq!(other.cluster_grid(8).cluster_blocks, 3);
    assert_eq!(other.cluster_grid(2).cluster_blocks, 2);
    let error = other.with_blocks(17).unwrap_err().to_string();
    assert_eq!(error, "thread blocks of a row: 17 is outside 1..=16");
    // No grid has so many blocks.
    let many = TopkShape::of::<bf16>((1 << 29) - 1, 40_000, 1);
    assert_eq!(TopkPlan::new(many).unwrap().cluster_grid(8).cluster_blocks, 4);
    let more = TopkShape { n_rows: 1 << 29, ..many };
    assert_eq!(TopkPlan::new(more).unwrap().cluster_grid(8).cluster_blocks, 1);
}

#[test]
fn a_mass_at_its_edges() {
    let of = |row: Vec<f32>, share| Problem::new(&[row], 600).with_rule(Rule::Mass { share });
    let wanted = |problem: &Problem<f32>| {
        assert_all_same(problem);
        problem.expect().wanted[0]
    };
    // Of nothing, nothing is enough; of no mass too.
    assert_eq!(wanted(&of(weights(500, 1), 0.0)), 0);
    assert_eq!(wanted(&of(vec![0.0; 500], 1.0)), 0);
    assert_eq!(wanted(&of(vec![-1.0; 500], 1.0)), 0);
    assert_eq!(wanted(&of(vec![f32::NAN; 500], 0.5)), 0);
    assert_eq!(wanted(&of(vec![0.0; 500], 1.0).with_forced(2, 3)), 5);
    // All of it is whatever weighs something.
    assert_eq!(wanted(&of([vec![1.0; 77], vec![0.0; 400], vec![1e-30]].concat(), 1.0)), 77);
    assert_eq!(wanted(&of(vec![1.0; 500], f32::from_bits(1))), 1);
    // The cut among equals.
    assert_eq!(wanted(&of(vec![0.125; 500], 0.5)), 250);
    assert_eq!(wanted(&of(vec![0.125; 501], 0.5)), 251);
    // Forced ones weigh too: here more than is asked for, and here half of it.
    let forced = [vec![8.0], vec![1.0; 248]].concat();
    assert_eq!(wanted(&of(forced.clone(), 0.02).with_forced(1, 0)), 1);
    assert_eq!(wanted(&of(forced, 16.0 / 256.0).with_forced(1, 0)), 9);
    // Infinity is worth two of the largest, almost.
    assert_eq!(wanted(&of([vec![1.0; 100], vec![f32::INFINITY]].concat(), 0.5)), 51);
    assert_eq!(wanted(&of(vec![f32::INFINITY; 100], 0.5)), 50);
    // Subnormal numbers alone.
    let tiny: Vec<f32> = (0..300).map(|i| f32::from_bits(i % 7)).collect();
    assert_same(&of(tiny, 0.7));
    // Too few places: the largest, and how many it should have been.
    let short = Problem::new(&[weights(2000, 5)], 10).with_rule(Rule::Mass { share: 0.99 });
    assert!(wanted(&short) > 10);
    assert_eq!(short.expect().indices, short.clone().with_rule(Rule::Largest).expect().indices);
    let none = Problem { shape: TopkShape { k: 0, ..short.shape }, ..short };
    assert!(wanted(&none) > 10);
}

/// A threshold between two numbers of 16 bits, and at the ends of what they can be.
#[test]
fn thresholds_are_numbers_of_32_bits() {
    let row: Vec<f32> =
        (0..=u16::MAX).step_by(5).map(|bits| f16::from_bits(bits).to_f32()).collect();
    let plain = Problem::new(&[row], 8192);
    for least in [
        0.0,
        -0.0,
        1e-40,
        -1e-40,
        1.0,
        1.0 + f32::EPSILON,
        -1.0 - f32::EPSILON,
        65_504.0,
        65_505.0,
        65_520.0,
        -65_505.0,
        3e38,
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
    ] {
        let problem = plain.clone().with_rule(Rule::AtLeast { least });
        assert_same(&problem);
        assert_same(&convert(&problem, f16::from_f32));
        assert_same(&convert(&problem, bf16::from_f32));
    }
    // Nothing is at least NaN but what is forced.
    let problem = plain.with_rule(Rule::AtLeast { least: 0.0 }).with_forced(3, 0);
    let problem = Problem { amounts: Some(vec![f32::NAN]), ..problem };
    assert_eq!(problem.expect().counts, [3]);
    assert_same(&problem);
}

#[test]
fn every_schedule_and_fibre_gives_the_same_bits() {
    let rows = [few_values(1500, 3), weights(1500, 4)];
    let problem = Problem::new(&rows, 300).with_forced(2, 5).with_order(Order::Score);
    let problem = problem.with_mask(true);
    for (rule, n_blocks) in [Rule::Largest, Rule::Mass { share: 0.6 }]
        .into_iter()
        .flat_map(|rule| [1, 3].map(|n_blocks| (rule, n_blocks)))
    {
        let problem = problem.clone().with_rule(rule).with_blocks(n_blocks);
        let expected = problem.expect();
        for schedule in common::SCHEDULES {
            for fibres in [Fibres::Native, Fibres::Portable] {
                for seed in 0..3 {
                    let checks = Checks::ALL;
                    let config = Config { schedule, fibres, seed, checks, ..Config::default() };
                    assert_eq!(
                        problem.run(&Queue::simt(config.clone())).unwrap(),
                        expected,
                        "{config:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_row_alone_and_among_others_gives_the_same() {
    let rows: Vec<_> = (0..5).map(|row| few_values(700, row)).collect();
    for queue in common::queues() {
        let together = Problem::new(&rows, 64).run(&queue).unwrap();
        for (idx, row) in rows.iter().enumerate() {
            let alone = Problem::new(std::slice::from_ref(row), 64).run(&queue).unwrap();
            assert_eq!(alone.indices, together.indices[idx * 64..][..64]);
        }
    }
}

/// Rows whose vectors begin anywhere, and lie in rows of another width.
#[test]
fn the_same_row_gives_the_same_picks_wherever_it_stands() {
    let row = brains(&weights(403, 9));
    for rule in [Rule::Largest, Rule::Mass { share: 0.7 }] {
        let narrow = Problem::new(&vec![row.clone(); 9], 40).with_rule(rule).with_stride(405);
        let wide = [row.clone(), brains(&many_values(5000, 1))].concat();
        let wide = Problem::new(&[wide], 40).with_rule(rule);
        let wide = Problem { lengths: Some(vec![403]), ..wide };
        for queue in common::queues() {
            let found = narrow.run(&queue).unwrap();
            assert_eq!(found, narrow.expect());
            let one = &found.indices[..40];
            assert!(found.indices.chunks(40).all(|picks| picks == one));
            assert_eq!(&wide.run(&queue).unwrap().indices, one);
        }
    }
}

/// As a captured graph replays it: the same buffers, and other lengths in them.
#[test]
fn rows_grow_and_shrink_in_the_same_buffers() {
    let rows = [few_values(900, 1), weights(900, 2)];
    for queue in common::queues() {
        for n_blocks in [1, 4] {
            let problem = Problem::new(&rows, 50).with_rule(Rule::Mass { share: 0.9 });
            let problem = problem.with_blocks(n_blocks).with_mask(true);
            let mut outputs = Outputs::new(&queue, &problem.plan().unwrap()).unwrap();
            for lengths in [[900, 0], [1, 900], [0, 0], [70, 30], [u32::MAX, 899]] {
                let problem = Problem { lengths: Some(lengths.to_vec()), ..problem.clone() };
                assert_eq!(problem.run_into(&queue, &mut outputs).unwrap(), problem.expect());
            }
        }
    }
}

/// A hundred thousand on a GPU (or `LACUNA_LAUNCHES`), where clusters start again before others have left; they must neither hang nor wear out.
#[test]
fn launches_follow_each_other() {
    for queue in common::queues() {
        let asked = std::env::var("LACUNA_LAUNCHES").ok().and_then(|n| n.parse().ok());
        let n_launches = asked.unwrap_or(if queue.memory().is_cuda() { 100_000 } else { 10 });
        for (n, n_blocks) in [(700, 1), (9000, 4)] {
            let rows = [few_values(n, 1), few_values(n, 2), many_values(n, 3)];
            let problem = Problem { n_launches, ..Problem::new(&rows, 64).with_blocks(n_blocks) };
            // Blocks of a cluster are for queues that have clusters.
            if n_blocks <= queue.most_cluster_blocks() {
                assert_eq!(problem.run(&queue).unwrap(), problem.expect(), "{}", queue.executor());
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let queue = Queue::simt(Config::default());
    let sound = Problem::new(&[few_values(40, 1), few_values(40, 2)], 8);
    let table = Some(vec![0; 2]);
    for (problem, message) in [
        (Problem { lengths: Some(vec![1; 3]), ..sound.clone() }, "lengths: expected 2, got 3"),
        (Problem { skips: Some(vec![1]), ..sound.clone() }, "skips: expected 2, got 1"),
        (Problem { amounts: Some(vec![]), ..sound.clone() }, "amounts: expected 2, got 0"),
        (Problem { page_table: table, ..sound.clone() }, "page tables: expected 0, got 1"),
    ] {
        assert_eq!(problem.run(&queue).unwrap_err().to_string(), message);
    }
    let shared = sound.clone().with_lengths(&[1, 1], 2, 1);
    assert_eq!(shared.run(&queue).unwrap_err().to_string(), "lengths: expected 1, got 2");
    let pages = TopkPages { n_pages: 3, page_size: 16, table_stride: 2 };
    let paged = TopkShape { pages: Some(pages), ..sound.shape };
    let untabled = Problem { shape: paged, ..sound.clone() };
    let message = "page tables: expected 1, got 0";
    assert_eq!(untabled.run(&queue).unwrap_err().to_string(), message);
    let short = Problem { page_table: Some(vec![0; 3]), ..untabled };
    assert_eq!(short.run(&queue).unwrap_err().to_string(), "page_table: expected 4, got 3");
    let shape = sound.shape;
    let with_pages = |pages| TopkShape { pages: Some(pages), ..shape };
    for (shape, message) in [
        (TopkShape { k: 8193, ..shape }, "picks of a row: 8193 is outside 0..=8192"),
        (
            TopkShape { row_stride: 39, ..shape },
            "stride between rows, in elements: 39 is outside the scores of a row and more",
        ),
        (TopkShape { score_bytes: 8, ..shape }, "bytes of a score: 8 is outside 2 and 4"),
        (
            TopkShape { rule: Rule::Mass { share: 95.0 }, ..shape },
            "share of a row's mass: 95 is outside 0..=1",
        ),
        (
            TopkShape { rule: Rule::Percentile { percent: -0.5 }, ..shape },
            "percentile: -0.5 is outside 0..=100",
        ),
        (
            TopkShape { rule: Rule::AtLeast { least: f32::NAN }, ..shape },
            "least score: NaN is outside the numbers and infinities",
        ),
        (
            TopkShape { n: 1 << 25, row_stride: 1 << 25, rule: Rule::Mass { share: 0.5 }, ..shape },
            "scores of a row by mass: 33554432 is outside 0..=2^24",
        ),
        (
            TopkShape { n: 1 << 27, row_stride: 1 << 27, ..paged },
            "scores of a row with pages: 134217728 is outside 0..=2^26",
        ),
        (
            with_pages(TopkPages { page_size: 257, ..pages }),
            "indices of a page: 257 is outside 1..=256",
        ),
        (TopkShape { rows_per_request: 0, ..shape }, "rows of a request: 0 is outside 1 and more"),
        (TopkShape { tokens_per_score: 0, ..shape }, "tokens of a score: 0 is outside 1..2^31"),
        (
            TopkShape { tokens_per_score: 1 << 31, ..shape },
            "tokens of a score: 2147483648 is outside 1..2^31",
        ),
        (
            with_pages(TopkPages { n_pages: 1 << 28, ..pages }),
            "slots of the pool: 4294967296 is outside 0..=2^31",
        ),
    ] {
        assert_eq!(TopkPlan::new(shape).unwrap_err().to_string(), message);
    }
}
