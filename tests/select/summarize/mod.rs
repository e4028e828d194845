//! `summarize`.

mod laws;
mod problem;

use half::{bf16, f16};
use lacuna::Queue;
use lacuna::element::Float;
use lacuna::kv::{KvLayout, KvShape};
use lacuna::select::reference::{mean_of, outlier_score};
use lacuna::select::{SummarizePlan, SummarizeShape, Summary};
use lacuna::simt::{Checks, Config, Fibres};

use self::problem::*;
use crate::common;

#[test]
fn chunks_around_pages_blocks_and_what_is_staged() {
    for summary in KINDS {
        for (fan, page_size) in [(1, 1), (4, 4), (16, 3), (3, 16), (64, 96), (65, 64), (200, 256)] {
            for n_tokens in [0, 1, fan - 1, fan, fan + 1, 2 * fan + 1] {
                let sizes = Sizes { summary, fan, page_size, n_tokens: 3 * fan, ..Sizes::PLAIN };
                let lengths = [n_tokens as u32];
                assert_same::<_, bf16>(&Problem::new(sizes, &lengths, fan as u64, odd::<bf16>));
            }
        }
    }
    // The longest rows: what a warp stages is less than a chunk.
    let sizes = Sizes { n_tokens: 40, fan: 24, row_len: 1024, n_heads: 1, ..Sizes::PLAIN };
    let staged = Sizes { summary: Summary::MeanAndOutlier, ..sizes };
    assert_same::<_, f16>(&Problem::new(staged, &[40], 1, plain::<f16>));
    // So few that an odd number of keys would fit.
    let few = Sizes { row_len: 320, n_tokens: 70, fan: 64, ..staged };
    assert_same::<_, bf16>(&Problem::new(few, &[70], 1, plain::<bf16>));
    let boxes = Sizes { row_len: 512, ..sizes };
    assert_same::<_, f16>(&Problem::new(boxes, &[40], 1, odd::<f16>));
    // More than a warp has lanes for, of 8 bits.
    let bytes = Sizes { row_len: 520, ..staged };
    assert_same::<_, f16>(&Problem::new(bytes, &[40], 1, any_e4m3));
    // No requests.
    assert_same::<_, bf16>(&Problem::new(Sizes::PLAIN, &[], 1, plain::<bf16>));
}

#[test]
fn tokens_appended_one_at_a_time_leave_what_all_at_once_do() {
    for summary in KINDS {
        let sizes = Sizes { summary, fan: 8, n_tokens: 48, ..Sizes::PLAIN };
        for queue in common::queues() {
            let whole = Problem::new(sizes, &[48, 41], 11, odd::<bf16>);
            let mut grown = Problem { max_new: 1, ..whole.clone() };
            let mut random = Random(5);
            let mut lengths = vec![0_u32, 0];
            while lengths != whole.lengths {
                grown.first_new = Some(lengths.clone());
                for (length, most) in lengths.iter_mut().zip(&whole.lengths) {
                    // Mostly one, sometimes none or many: more than the grid was made for.
                    let n = [0, 1, 1, 1, 1, 20][random.below(6)];
                    *length = (*length + n).min(*most);
                }
                grown.lengths = lengths.clone();
                let (rows, scores) = grown.run::<bf16>(&queue).unwrap();
                grown.rows = rows;
                grown.scores = scores.into_iter().map(f32::from_bits).collect();
            }
            let expected = whole.run::<bf16>(&queue).unwrap();
            assert_eq!(grown.rows, expected.0, "{summary:?}");
            let scores: Vec<_> = grown.scores.iter().map(|x| x.to_bits()).collect();
            assert_eq!(scores, expected.1, "{summary:?}");
        }
    }
}

/// The summaries of each request, head and row, wherever they are.
fn logical<K: Float>(problem: &Problem<K>, rows: &[u16]) -> Vec<Vec<u16>> {
    let summaries = &problem.summaries;
    let mut found = Vec::new();
    for (b, length) in problem.lengths.iter().enumerate() {
        for t in 0..summaries.rows_of((*length).into()) {
            for h in 0..summaries.shape().n_heads {
                let at = summaries.locate(&problem.summary_table, b as u64, t, h).unwrap();
                found.push(rows[at..][..summaries.shape().row_len as usize].to_vec());
            }
        }
    }
    found
}

#[test]
fn neither_pages_nor_their_order_change_a_summary() {
    let lengths = [193_u32, 70];
    for summary in KINDS {
        let mut first: Option<Vec<Vec<u16>>> = None;
        for (page_size, pages) in [
            (1, Pages::Nhd),
            (16, Pages::Hnd),
            (64, Pages::FusedNhd),
            (96, Pages::FusedHnd),
            (256, Pages::Hnd),
        ] {
            let sizes = Sizes {
                summary,
                page_size,
                pages,
                n_tokens: 200,
                summary_pages: pages,
                ..Sizes::PLAIN
            };
            let mut problem = Problem::new(sizes, &lengths, page_size as u64, plain::<bf16>);
            // The same keys, wherever their pages are.
            for b in 0..2_u64 {
                for t in 0..u64::from(lengths[b as usize]) {
                    for h in 0..2_u64 {
                        let at = problem.keys.locate(&problem.table, b, t, h).unwrap();
                        let mut random = Random((b << 40) ^ (t << 20) ^ h);
                        let row = fill(sizes.row_len, &mut random, plain::<bf16>);
                        problem.pool[at..][..sizes.row_len].copy_from_slice(&row);
                    }
                }
            }
            for queue in common::queues() {
                let (rows, _) = problem.run::<bf16>(&queue).unwrap();
                let rows = logical(&problem, &rows);
                assert_eq!(
                    *first.get_or_insert_with(|| rows.clone()),
                    rows,
                    "{summary:?} {page_size}"
                );
            }
        }
    }
}

/// Rows whose first channel has these numbers, and ones elsewhere.
fn chunk_of(numbers: &[f32]) -> Problem<bf16> {
    let sizes = Sizes {
        n_heads: 1,
        row_len: 8,
        fan: 4,
        n_tokens: numbers.len(),
        page_size: 4,
        ..Sizes::PLAIN
    };
    let mut problem = Problem::new(sizes, &[numbers.len() as u32], 1, |_| bf16::ONE);
    for (t, x) in numbers.iter().enumerate() {
        let at = problem.keys.locate(&problem.table, 0, t as u64, 0).unwrap();
        problem.pool[at] = <bf16 as lacuna::element::Real>::from_f32(*x);
    }
    problem
}

#[test]
fn what_is_no_number_widens_a_box_and_what_is_nothing_is_nan() {
    let most = bf16::MAX.to_f32();
    for (numbers, least, greatest) in [
        ([1.0, f32::NAN, 2.0, 3.0], -most, most),
        ([1.0, -f32::NAN, 2.0, 3.0], -most, most),
        ([1.0, f32::INFINITY, 2.0, 3.0], 1.0, most),
        ([f32::NEG_INFINITY; 4], -most, -most),
        ([0.0, -0.0, 0.0, 0.0], -0.0, 0.0),
    ] {
        let problem = chunk_of(&numbers);
        let (rows, _) = problem.expect::<bf16>();
        let row = &logical(&problem, &rows)[0];
        let [got_least, got_greatest] = [row[0], row[8]].map(bf16::from_bits);
        assert_eq!(got_least.to_bits(), bf16::from_f32(least).to_bits(), "{numbers:?}");
        assert_eq!(got_greatest.to_bits(), bf16::from_f32(greatest).to_bits(), "{numbers:?}");
        assert_same::<_, bf16>(&problem);
    }
    for summary in [Summary::Box, Summary::Mean, Summary::MeanAndOutlier] {
        let sizes = Sizes { summary, fan: 16, page_size: 16, n_tokens: 40, ..Sizes::PLAIN };
        let mut problem = Problem::new(sizes, &[40], 1, plain::<f16>);
        problem.table[1] = -1;
        let (rows, scores) = problem.expect::<f16>();
        let rows = logical(&problem, &rows);
        assert!(rows[2..4].iter().flatten().all(|bits| *bits == 0x7FFF));
        assert!(rows[..2].iter().chain(&rows[4..]).flatten().all(|bits| *bits != 0x7FFF));
        if summary == Summary::MeanAndOutlier {
            assert_eq!(f32::from_bits(scores[1]), f32::NEG_INFINITY);
        }
        assert_same::<_, f16>(&problem);
    }
}

#[test]
fn outlier_scores_at_their_ends() {
    let row = |x: f32| [bf16::from_f32(x); 16];
    let score = |rows: &[[bf16; 16]]| {
        let rows: Vec<&[bf16]> = rows.iter().map(|row| &row[..]).collect();
        outlier_score(&rows, &mean_of::<bf16, bf16>(&rows, 16))
    };
    // All alike, one the other way, one of zeros, a mean of zeros, and one that is no number.
    assert_eq!(score(&[row(2.0), row(2.0)]), -1.0);
    assert_eq!(score(&[row(2.0), row(-1.0)]), 1.0);
    assert_eq!(score(&[row(2.0), row(0.0)]).to_bits(), 0.0_f32.to_bits());
    assert_eq!(score(&[row(1.0), row(-1.0)]).to_bits(), 0.0_f32.to_bits());
    for strange in [f32::NAN, f32::INFINITY, 3e38] {
        assert_eq!(score(&[row(1.0), row(strange)]), f32::INFINITY);
    }
    assert_eq!(score(&[]), f32::NEG_INFINITY);
    let sizes = Sizes {
        summary: Summary::MeanAndOutlier,
        n_heads: 1,
        row_len: 16,
        fan: 2,
        n_tokens: 12,
        ..Sizes::PLAIN
    };
    let mut problem = Problem::new(sizes, &[12], 1, plain::<bf16>);
    let values = [2.0, 2.0, 2.0, -1.0, 2.0, 0.0, 1.0, -1.0, 1.0, f32::NAN, 1.0, 3e38];
    for (t, x) in values.into_iter().enumerate() {
        let at = problem.keys.locate(&problem.table, 0, t as u64, 0).unwrap();
        problem.pool[at..][..16].copy_from_slice(&row(x));
    }
    assert_same::<_, bf16>(&problem);
}

#[test]
fn every_schedule_and_fibre_gives_the_same_bits() {
    for summary in KINDS {
        let sizes =
            Sizes { summary, fan: 72, page_size: 16, n_tokens: 200, row_len: 80, ..Sizes::PLAIN };
        let problem = Problem::new(sizes, &[200, 90], 3, odd::<bf16>);
        let expected = problem.expect::<bf16>();
        for schedule in common::SCHEDULES {
            for fibres in [Fibres::Native, Fibres::Portable] {
                let checks = Checks::ALL;
                let config = Config { schedule, fibres, seed: 2, checks, ..Config::default() };
                let got = problem.run::<bf16>(&Queue::simt(config.clone())).unwrap();
                assert!(got == expected, "{summary:?}, {config:?}");
            }
        }
    }
}

#[test]
fn a_request_alone_and_among_others_gives_the_same() {
    for summary in KINDS {
        let sizes = Sizes { summary, ..Sizes::PLAIN };
        let together = Problem::new(sizes, &[100, 37, 64], 3, odd::<bf16>);
        for queue in common::queues() {
            let (rows, _) = together.run::<bf16>(&queue).unwrap();
            let all = logical(&together, &rows);
            let mut n_before = 0;
            for b in 0..3 {
                let [one_table, one_summary_table] = [
                    (&together.table, &together.keys),
                    (&together.summary_table, &together.summaries),
                ]
                .map(|(table, layout)| {
                    let stride = layout.shape().table_stride as usize;
                    table[b * stride..][..stride].to_vec()
                });
                let one = |layout: &KvLayout| {
                    KvLayout::new(KvShape { batch: 1, ..*layout.shape() }).unwrap()
                };
                let alone = Problem {
                    keys: one(&together.keys),
                    summaries: one(&together.summaries),
                    table: one_table,
                    summary_table: one_summary_table,
                    lengths: vec![together.lengths[b]],
                    scores: together.scores[..together.scores.len() / 3].to_vec(),
                    ..together.clone()
                };
                let (rows, _) = alone.run::<bf16>(&queue).unwrap();
                let rows = logical(&alone, &rows);
                assert_eq!(rows, all[n_before..][..rows.len()]);
                n_before += rows.len();
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let queue = Queue::simt(Config::default());
    let sound = Problem::new(Sizes::PLAIN, &[100, 3], 1, plain::<bf16>);
    for (problem, message) in [
        (Problem { first_new: Some(vec![1]), ..sound.clone() }, "first_new: expected 2, got 1"),
        (Problem { scores: vec![0.0], ..sound.clone() }, "outliers: expected 0, got 1"),
        (
            Problem { summary_table: vec![0; 3], ..sound.clone() },
            "summary_table: expected 8, got 3",
        ),
        (
            Problem { summary: Summary::Mean, ..sound.clone() },
            "elements of a summary: expected 64, got 128",
        ),
    ] {
        assert_eq!(problem.run::<bf16>(&queue).unwrap_err().to_string(), message);
    }
    assert_eq!(
        sound.run::<f16>(&queue).unwrap_err().to_string(),
        "element type of summaries: 1 is outside the keys' type, of fp8 keys bf16 and f16"
    );
    // A pool of the same length.
    let nhd = sound.keys.shape().nhd();
    let keys = KvLayout::new(if nhd == *sound.keys.shape() { nhd.hnd() } else { nhd }).unwrap();
    let other = Problem { keys, ..sound.clone() }.plan().unwrap();
    let (own, planned) = (sound.keys.shape().token_stride, keys.shape().token_stride);
    assert_eq!(
        sound.run_by::<bf16>(&queue, &other).unwrap_err().to_string(),
        format!("stride between the cache's rows: expected {planned}, got {own}")
    );
    let shape = *sound.plan().unwrap().shape();
    let with = |change: &dyn Fn(KvShape) -> KvShape| SummarizeShape {
        summaries: KvLayout::new(change(*shape.summaries.shape())).unwrap(),
        ..shape
    };
    let overlapping = with(&|summaries| KvShape { head_stride: 64, ..summaries });
    let of_outliers = SummarizeShape {
        summary: Summary::MeanAndOutlier,
        outlier_stride: 7,
        ..with(&|summaries| KvShape { row_len: 64, ..summaries })
    };
    let other_keys = KvShape { tokens_per_row: 3, ..*shape.keys.shape() };
    for (shape, message) in [
        (
            with(&|summaries| KvShape { batch: 3, ..summaries }),
            "requests of summaries: expected 2, got 3",
        ),
        (
            with(&|summaries| KvShape { n_heads: 1, ..summaries }),
            "heads of summaries: expected 2, got 1",
        ),
        (
            SummarizeShape { keys: KvLayout::new(other_keys).unwrap(), ..shape },
            "tokens of a summary: 16 is outside the multiples of those of a key",
        ),
        (
            SummarizeShape { key_bytes: 4, ..shape },
            "bytes of an element: 4 is outside 1 and 2, of boxes 2",
        ),
        (
            overlapping,
            "stride between summaries, in elements: 64 is outside those that keep them apart",
        ),
        (
            of_outliers,
            "stride between outlier scores: 7 is outside the rows of a request and more, below 2^31",
        ),
    ] {
        assert_eq!(SummarizePlan::new(shape).unwrap_err().to_string(), message);
    }
    let odd_box = |summaries: KvShape| KvShape { row_len: 72, ..summaries };
    let boxes = SummarizeShape {
        summary: Summary::BoxOfBoxes,
        keys: KvLayout::new(odd_box(*shape.keys.shape())).unwrap(),
        ..with(&odd_box)
    };
    assert_eq!(
        SummarizePlan::new(boxes).unwrap_err().to_string(),
        "elements of a box: 72 is outside the multiples of 16"
    );
}
