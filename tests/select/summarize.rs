//! `summarize`.

use half::{bf16, f16};
use lacuna::element::{E4m3, E5m2, Float};
use lacuna::kv::{KvLayout, KvShape, KvView};
use lacuna::select::reference::{box_of, box_of_boxes, mean_of, outlier_score};
use lacuna::select::{
    Score, SummarizeInputs, SummarizeOutputs, SummarizePlan, SummarizeShape, Summary, summarize,
};
use lacuna::simt::{Checks, Config, Fibres};
use lacuna::{Error, Queue};
use proptest::prelude::*;

use crate::common;

/// What is in the outputs before a launch: no summary has it.
const POISON: u16 = 0x5EED;
const POISON_SCORE: f32 = -777.0;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        (self.0 >> 33) as usize % n
    }
}

/// How rows lie in pages.
#[derive(Debug, Clone, Copy)]
enum Pages {
    Nhd,
    Hnd,
    FusedNhd,
    FusedHnd,
}

const PAGES: [Pages; 4] = [Pages::Nhd, Pages::Hnd, Pages::FusedNhd, Pages::FusedHnd];

fn lay_out(shape: KvShape, pages: Pages) -> KvLayout {
    let shape = match pages {
        Pages::Nhd => shape.nhd(),
        Pages::Hnd => shape.hnd(),
        Pages::FusedNhd => shape.nhd().fused(),
        Pages::FusedHnd => shape.hnd().fused(),
    };
    KvLayout::new(shape).unwrap()
}

/// Different pages for all of a table, some of the pool's left over.
fn shuffled_table(layout: &KvLayout, random: &mut Random) -> Vec<i32> {
    let n_pages = layout.shape().n_pages as usize;
    let mut pages: Vec<i32> = (0..n_pages as i32).collect();
    for i in (1..n_pages).rev() {
        pages.swap(i, random.below(i + 1));
    }
    pages.truncate(layout.table_len() as usize);
    assert_eq!(pages.len() as u64, layout.table_len());
    pages
}

#[derive(Debug, Clone)]
struct Problem<K> {
    keys: KvLayout,
    summaries: KvLayout,
    summary: Summary,
    max_new: u64,
    pool: Vec<K>,
    table: Vec<i32>,
    summary_table: Vec<i32>,
    lengths: Vec<u32>,
    first_new: Option<Vec<u32>>,
    /// The summaries' pool and scores before the launch.
    rows: Vec<u16>,
    scores: Vec<f32>,
}

/// Sizes of a problem.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    summary: Summary,
    n_heads: usize,
    row_len: usize,
    page_size: usize,
    pages: Pages,
    fan: usize,
    /// Tokens that the keys' pages hold, at least.
    n_tokens: usize,
    rows_per_page: usize,
    summary_pages: Pages,
}

impl Sizes {
    const PLAIN: Self = Self {
        summary: Summary::Box,
        n_heads: 2,
        row_len: 64,
        page_size: 16,
        pages: Pages::Nhd,
        fan: 16,
        n_tokens: 100,
        rows_per_page: 2,
        summary_pages: Pages::Nhd,
    };
}

/// What is in the pool of a cache, from what numbers.
fn fill<K: Float>(n: usize, random: &mut Random, numbers: impl Fn(&mut Random) -> K) -> Vec<K> {
    (0..n).map(|_| numbers(random)).collect()
}

impl<K: Float> Problem<K> {
    fn new(sizes: Sizes, lengths: &[u32], seed: u64, numbers: impl Fn(&mut Random) -> K) -> Self {
        let mut random = Random(seed);
        let batch = lengths.len();
        let table_stride = sizes.n_tokens.div_ceil(sizes.page_size);
        let shape = KvShape {
            batch: batch as u64,
            n_heads: sizes.n_heads as u64,
            row_len: sizes.row_len as u64,
            n_pages: (batch * table_stride + 2) as u64,
            page_size: sizes.page_size as u64,
            table_stride: table_stride as u64,
            tokens_per_row: 1,
            page_stride: 0,
            token_stride: 0,
            head_stride: 0,
        };
        let keys = lay_out(shape, sizes.pages);
        let table_stride = sizes.n_tokens.div_ceil(sizes.fan).div_ceil(sizes.rows_per_page);
        let summaries = lay_out(
            KvShape {
                row_len: sizes.summary.row_len(sizes.row_len as u64),
                n_pages: (batch * table_stride + 1) as u64,
                page_size: sizes.rows_per_page as u64,
                table_stride: table_stride as u64,
                tokens_per_row: sizes.fan as u64,
                ..shape
            },
            sizes.summary_pages,
        );
        let n_scores = match sizes.summary {
            Summary::MeanAndOutlier => batch * sizes.n_heads * (summaries.n_rows() as usize + 3),
            _ => 0,
        };
        Self {
            keys,
            summaries,
            summary: sizes.summary,
            max_new: u64::MAX,
            table: shuffled_table(&keys, &mut random),
            summary_table: shuffled_table(&summaries, &mut random),
            pool: fill(keys.pool_len() as usize, &mut random, numbers),
            lengths: lengths.to_vec(),
            first_new: None,
            rows: vec![POISON; summaries.pool_len() as usize],
            scores: vec![POISON_SCORE; n_scores],
        }
    }

    fn plan(&self) -> Result<SummarizePlan, Error> {
        SummarizePlan::new(SummarizeShape {
            keys: self.keys,
            summaries: self.summaries,
            summary: self.summary,
            max_new: self.max_new,
            key_bytes: size_of::<K>() as u32,
            outlier_stride: self.summaries.n_rows() + 3,
        })
    }

    fn run<S: Score>(&self, queue: &Queue) -> Result<(Vec<u16>, Vec<u32>), Error> {
        let plan = self.plan()?;
        let pool = queue.upload(&self.pool)?;
        let [table, summary_table] =
            [queue.upload(&self.table)?, queue.upload(&self.summary_table)?];
        let lengths = queue.upload(&self.lengths)?;
        let first_new = self.first_new.as_ref().map(|words| queue.upload(words)).transpose()?;
        let mut rows = queue.upload(bytemuck::cast_slice::<u16, S>(&self.rows))?;
        let mut scores = queue.upload(&self.scores)?;
        let inputs = SummarizeInputs {
            keys: KvView {
                layout: self.keys,
                keys: pool.view(),
                values: None,
                page_table: table.view(),
                lengths: lengths.view(),
                key_scale: 1.0,
                value_scale: 1.0,
            },
            summary_table: summary_table.view(),
            first_new: first_new.as_ref().map(|b| b.view()),
        };
        let mut outputs = SummarizeOutputs {
            rows: rows.view_mut(),
            outliers: (!self.scores.is_empty()).then(|| scores.view_mut()),
        };
        summarize(queue, &plan, &inputs, &mut outputs)?;
        let rows = queue.download(&rows.view())?;
        let scores = queue.download(&scores.view())?;
        Ok((bytemuck::cast_slice(&rows).to_vec(), scores.iter().map(|x| x.to_bits()).collect()))
    }

    /// The keys of a summary that are there.
    fn chunk(&self, b: usize, t: u64, h: usize) -> Vec<&[K]> {
        let (keys, tokens_per_row) = (&self.keys, self.summaries.shape().tokens_per_row);
        let fan = tokens_per_row / keys.shape().tokens_per_row;
        let end = (t * fan + fan).min(keys.rows_of(self.lengths[b].into()));
        let place = |i| keys.locate(&self.table, b as u64, i, h as u64);
        let row_len = keys.shape().row_len as usize;
        (t * fan..end).filter_map(place).map(|at| &self.pool[at..][..row_len]).collect()
    }

    fn expect<S: Score>(&self) -> (Vec<u16>, Vec<u32>) {
        let (mut rows, mut scores) = (self.rows.clone(), self.scores.clone());
        let (shape, summaries) = (self.keys.shape(), &self.summaries);
        let row_len = shape.row_len as usize;
        for b in 0..self.lengths.len() {
            let first_new = self.first_new.as_ref().map_or(0, |words| words[b]);
            let n_rows = summaries.rows_of(self.lengths[b].into());
            let first = u64::from(first_new) / summaries.shape().tokens_per_row;
            for t in if first_new < self.lengths[b] { first..n_rows } else { 0..0 } {
                for h in 0..shape.n_heads as usize {
                    let keys = self.chunk(b, t, h);
                    let row: Vec<S> = match self.summary {
                        Summary::Box => box_of(&keys, row_len),
                        Summary::Mean | Summary::MeanAndOutlier => mean_of(&keys, row_len),
                        Summary::BoxOfBoxes => {
                            // Both types are the same.
                            let boxes: Vec<&[S]> =
                                keys.iter().map(|row| bytemuck::cast_slice(row)).collect();
                            box_of_boxes(&boxes, row_len)
                        }
                    };
                    let at = summaries.locate(&self.summary_table, b as u64, t, h as u64);
                    if let Some(at) = at {
                        rows[at..][..row.len()].copy_from_slice(bytemuck::cast_slice(&row));
                    }
                    if self.summary == Summary::MeanAndOutlier {
                        let head = b * shape.n_heads as usize + h;
                        let place = head * (summaries.n_rows() as usize + 3) + t as usize;
                        scores[place] =
                            at.map_or(f32::NEG_INFINITY, |_| outlier_score(&keys, &row));
                    }
                }
            }
        }
        (rows, scores.iter().map(|x| x.to_bits()).collect())
    }
}

#[track_caller]
fn assert_same<K: Float, S: Score>(problem: &Problem<K>) {
    for queue in common::queues() {
        let [got, expected] = [problem.run::<S>(&queue).unwrap(), problem.expect::<S>()];
        assert_eq!(got.1, expected.1, "scores, {}", queue.executor());
        let differs = got.0.iter().zip(&expected.0).position(|(got, expected)| got != expected);
        if let Some(at) = differs {
            panic!("element {at}: {:#x} for {:#x}", got.0[at], expected.0[at]);
        }
    }
}

/// Keys as models have them, in 16 bits.
fn plain<S: Score>(random: &mut Random) -> S {
    S::from_f32(random.below(1 << 16) as f32 / 16_384.0 - 2.0)
}

/// The same, with special numbers among them; rare, so that some chunks have none.
fn odd<S: Score>(random: &mut Random) -> S {
    let few = [0.0, -0.0, 1e-7, -1e-7, 1e38, -1e38, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    match random.below(200) {
        i if i < few.len() => S::from_f32(few[i]),
        9 => S::from_f32(f32::from_bits(0xFFC0_0001)),
        _ => plain(random),
    }
}

fn any_e4m3(random: &mut Random) -> E4m3 {
    // NaN is one of 128: fewer.
    let code = random.below(256) as u8;
    E4m3(if code & 0x7F == 0x7F && random.below(16) != 0 { code ^ 1 } else { code })
}

fn any_e5m2(random: &mut Random) -> E5m2 {
    let code = random.below(256) as u8;
    E5m2(if code & 0x7F >= 0x7C && random.below(16) != 0 { code & 0xF7 } else { code })
}

const KINDS: [Summary; 4] =
    [Summary::Box, Summary::Mean, Summary::MeanAndOutlier, Summary::BoxOfBoxes];

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
        problem.pool[at] = <bf16 as Score>::from_f32(*x);
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
        (Problem { first_new: Some(vec![1]), ..sound.clone() }, "first new: expected 2, got 1"),
        (Problem { scores: vec![0.0], ..sound.clone() }, "outliers: expected 0, got 1"),
        (
            Problem { summary_table: vec![0; 3], ..sound.clone() },
            "summary table: expected 8, got 3",
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
