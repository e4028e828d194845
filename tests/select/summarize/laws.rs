//! What holds of any keys: of the reference alone, and of the kernel beside it.

use half::{bf16, f16};
use lacuna::kv::{KvLayout, KvShape};
use lacuna::select::reference::{box_of, box_of_boxes, mean_of, outlier_score};
use lacuna::select::{SummarizePlan, SummarizeShape, Summary};
use proptest::prelude::*;

use super::problem::*;

fn any_sizes() -> impl Strategy<Value = Sizes> {
    let pages = || prop::sample::select(&PAGES[..]);
    let page_size = || prop::sample::select(&[1_usize, 2, 3, 16, 64, 96, 256][..]);
    let fan = prop::sample::select(&[1_usize, 2, 5, 8, 16, 64, 70, 300][..]);
    let kinds = prop::sample::select(&KINDS[..]);
    (kinds, 1_usize..4, 1_usize..17, page_size(), pages(), fan, 1_usize..400, 1_usize..9, pages())
        .prop_map(
            |(
                summary,
                n_heads,
                n_vectors,
                page_size,
                pages,
                fan,
                n_tokens,
                rows_per_page,
                summary_pages,
            )| {
                let row_len = 16 * n_vectors - if summary == Summary::BoxOfBoxes { 0 } else { 8 };
                let n_tokens = if page_size == 1 { n_tokens.min(150) } else { n_tokens };
                Sizes {
                    summary,
                    n_heads,
                    row_len,
                    page_size,
                    pages,
                    fan,
                    n_tokens,
                    rows_per_page,
                    summary_pages,
                }
            },
        )
}

proptest! {
    /// Of the reference alone: a query's product with a key is never more than what the box says.
    #[test]
    fn a_box_bounds_the_product_with_every_key(seed: u64, n in 1_usize..20, n_vectors in 1_usize..9) {
        let mut random = Random(seed);
        let row_len = 8 * n_vectors;
        let rows: Vec<Vec<bf16>> = (0..n).map(|_| fill(row_len, &mut random, plain)).collect();
        let rows: Vec<&[bf16]> = rows.iter().map(Vec::as_slice).collect();
        let query: Vec<f32> = (0..row_len).map(|_| plain::<f32>(&mut random)).collect();
        let exact = |pairs: &mut dyn Iterator<Item = f64>| pairs.sum::<f64>();
        let bound_of = |row: &[bf16]| {
            let (least, most) = row.split_at(row_len);
            exact(&mut query.iter().zip(least).zip(most).map(|((q, least), most)| {
                let [q, least, most] = [*q, least.to_f32(), most.to_f32()].map(f64::from);
                (q * least).max(q * most)
            }))
        };
        let row = box_of::<bf16, bf16>(&rows, row_len);
        let wider = box_of_boxes(&[&row, &box_of::<bf16, bf16>(&rows[..1], row_len)], 2 * row_len);
        prop_assert_eq!(&wider, &row);
        for key in &rows {
            let product = exact(&mut query.iter().zip(*key).map(|(q, k)| {
                f64::from(*q) * f64::from(k.to_f32())
            }));
            prop_assert!(product <= bound_of(&row) + 1e-9 * product.abs());
        }
    }

    /// Of the reference alone: whatever is in the keys, the box is finite, and around every number of them.
    #[test]
    fn a_box_is_finite_and_in_no_order(seed: u64, n in 1_usize..20) {
        let mut random = Random(seed);
        let rows: Vec<Vec<f16>> = (0..n).map(|_| fill(8, &mut random, odd)).collect();
        let mut rows: Vec<&[f16]> = rows.iter().map(Vec::as_slice).collect();
        let row = box_of::<f16, f16>(&rows, 8);
        prop_assert!(row.iter().all(|bound| bound.is_finite()));
        for key in &rows {
            for (i, x) in key.iter().enumerate() {
                let within = row[i] <= *x && *x <= row[8 + i];
                let widest = row[i] == f16::MIN && row[8 + i] == f16::MAX;
                prop_assert!(within || (x.is_nan() && widest) || x.is_infinite());
            }
        }
        // Boxes of parts make the box of all.
        let (a, b) = rows.split_at(random.below(n + 1));
        let parts = [box_of::<f16, f16>(a, 8), box_of::<f16, f16>(b, 8)];
        let whole = box_of_boxes(&[&parts[0], &parts[1]], 16);
        let bits = |row: &[f16]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&whole), bits(&row));
        rows.reverse();
        prop_assert_eq!(bits(&box_of::<f16, f16>(&rows, 8)), bits(&row));
    }

    /// Of the reference alone.
    #[test]
    fn a_mean_and_its_outlier_score_are_near_the_exact_ones(seed: u64, n in 1_usize..70) {
        let mut random = Random(seed);
        let rows: Vec<Vec<bf16>> = (0..n).map(|_| fill(72, &mut random, plain)).collect();
        let rows: Vec<&[bf16]> = rows.iter().map(Vec::as_slice).collect();
        let mean = mean_of::<bf16, bf16>(&rows, 72);
        for (i, x) in mean.iter().enumerate() {
            let exact = rows.iter().map(|row| f64::from(row[i].to_f32())).sum::<f64>() / n as f64;
            prop_assert!((f64::from(x.to_f32()) - exact).abs() <= exact.abs() / 256.0 + 1e-5);
        }
        let product = |x: &[bf16], y: &[bf16]| -> f64 {
            x.iter().zip(y).map(|(x, y)| f64::from(x.to_f32()) * f64::from(y.to_f32())).sum()
        };
        let cosine = |row: &[bf16]| {
            product(&mean, row) / (product(&mean, &mean) * product(row, row)).sqrt()
        };
        let least = rows.iter().map(|row| cosine(row)).fold(f64::INFINITY, f64::min);
        prop_assert!((f64::from(outlier_score(&rows, &mean)) + least).abs() < 1e-5);
    }

    #[test]
    fn any_cache_gives_what_the_reference_gives(
        sizes in any_sizes(), seed: u64, given: bool, max_new in prop::sample::select(&[0_u64, 1, 40, u64::MAX][..]),
        kind in 0..5,
    ) {
        let mut random = Random(seed);
        let batch = 1 + random.below(3);
        // Some are past the pages, and some pages are none.
        let any_length = |random: &mut Random| match random.below(8) {
            0 => u32::MAX - random.below(3) as u32,
            1 => 0,
            _ => random.below(sizes.n_tokens + 5) as u32,
        };
        let lengths: Vec<u32> = (0..batch).map(|_| any_length(&mut random)).collect();
        let first_new = given.then(|| lengths.iter().map(|length| {
            (*length / 2).saturating_add(random.below(9) as u32).saturating_sub(4)
        }).collect());
        let absent: Vec<(usize, i32)> = (0..random.below(6)).map(|_| {
            (random.below(1 << 20), [-1, i32::MIN, i32::MAX, 1 << 20][random.below(4)])
        }).collect();
        fn lose<K>(problem: &mut Problem<K>, absent: &[(usize, i32)]) {
            for (i, (at, page)) in absent.iter().enumerate() {
                let of_keys = i % 3 != 2;
                let Problem { table, summary_table, .. } = problem;
                let table = if of_keys { table } else { summary_table };
                let at = at % table.len();
                table[at] = *page;
            }
        }
        macro_rules! check {
            ($numbers:expr, $summary:ty) => {{
                let mut problem = Problem {
                    first_new, max_new, ..Problem::new(sizes, &lengths, seed, $numbers)
                };
                lose(&mut problem, &absent);
                assert_same::<_, $summary>(&problem);
            }};
        }
        match if sizes.summary == Summary::BoxOfBoxes { kind % 2 } else { kind } {
            0 => check!(odd::<bf16>, bf16),
            1 => check!(odd::<f16>, f16),
            2 => check!(any_e4m3, bf16),
            3 => check!(any_e5m2, f16),
            _ => check!(plain::<bf16>, bf16),
        }
    }

    #[test]
    fn no_shape_makes_a_plan_panic(
        numbers in prop::array::uniform10(0_u64..1 << 27), row_len in 0_u64..130, scale in 0_u32..6,
        max_new: u64, key_bytes in 0_u32..4, kind in 0_usize..4, outlier_stride: u64, fan: u64,
    ) {
        let [batch, n_heads, n_pages, page_size, table_stride, tokens, more, stride, rows, pages] =
            numbers.map(|x| x >> (4 * scale));
        let shape = KvShape {
            batch, n_heads, row_len: 8 * row_len, n_pages, page_size: page_size % 256 + 1, table_stride,
            tokens_per_row: tokens + 1, page_stride: 8 * stride, token_stride: 8 * more, head_stride: 8 * rows,
        };
        let summary = KINDS[kind];
        let (keys, made) = (KvLayout::new(shape), KvLayout::new(KvShape {
            tokens_per_row: (tokens + 1).saturating_mul(fan % 9),
            row_len: summary.row_len(shape.row_len), n_pages: pages, ..shape
        }.hnd()));
        if let (Ok(keys), Ok(summaries)) = (keys, made) {
            let outlier_stride = outlier_stride >> (8 * scale);
            let shape = SummarizeShape { keys, summaries, summary, max_new, key_bytes, outlier_stride };
            let _ = SummarizePlan::new(shape).map(|plan| {
                (plan.outliers_len(), plan.least_bytes(1 << 30, 1 << 30), plan.grid())
            });
        }
    }
}
