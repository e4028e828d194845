//! Problems for `summarize`, and what must come of them.

use lacuna::element::{E4m3, E5m2, Float};
use lacuna::kv::{KvLayout, KvShape, KvView};
use lacuna::select::reference::{box_of, box_of_boxes, mean_of, outlier_score};
use lacuna::select::{
    Score, SummarizeInputs, SummarizeOutputs, SummarizePlan, SummarizeShape, Summary, summarize,
};
use lacuna::{Error, Queue};

use crate::common;
pub(crate) use crate::common::Random;

/// What is in the outputs before a launch: no summary has it.
pub(crate) const POISON: u16 = 0x5EED;
pub(crate) const POISON_SCORE: f32 = -777.0;

/// How rows lie in pages.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pages {
    Nhd,
    Hnd,
    FusedNhd,
    FusedHnd,
}

pub(crate) const PAGES: [Pages; 4] = [Pages::Nhd, Pages::Hnd, Pages::FusedNhd, Pages::FusedHnd];

pub(crate) fn lay_out(shape: KvShape, pages: Pages) -> KvLayout {
    let shape = match pages {
        Pages::Nhd => shape.nhd(),
        Pages::Hnd => shape.hnd(),
        Pages::FusedNhd => shape.nhd().fused(),
        Pages::FusedHnd => shape.hnd().fused(),
    };
    KvLayout::new(shape).unwrap()
}

/// Different pages for all of a table, some of the pool's left over.
pub(crate) fn shuffled_table(layout: &KvLayout, random: &mut Random) -> Vec<i32> {
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
pub(crate) struct Problem<K> {
    pub(crate) keys: KvLayout,
    pub(crate) summaries: KvLayout,
    pub(crate) summary: Summary,
    pub(crate) max_new: u64,
    pub(crate) pool: Vec<K>,
    pub(crate) table: Vec<i32>,
    pub(crate) summary_table: Vec<i32>,
    pub(crate) lengths: Vec<u32>,
    pub(crate) first_new: Option<Vec<u32>>,
    /// The summaries' pool and scores before the launch.
    pub(crate) rows: Vec<u16>,
    pub(crate) scores: Vec<f32>,
}

/// Sizes of a problem.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) summary: Summary,
    pub(crate) n_heads: usize,
    pub(crate) row_len: usize,
    pub(crate) page_size: usize,
    pub(crate) pages: Pages,
    pub(crate) fan: usize,
    /// Tokens that the keys' pages hold, at least.
    pub(crate) n_tokens: usize,
    pub(crate) rows_per_page: usize,
    pub(crate) summary_pages: Pages,
}

impl Sizes {
    pub(crate) const PLAIN: Self = Self {
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
pub(crate) fn fill<K: Float>(
    n: usize,
    random: &mut Random,
    numbers: impl Fn(&mut Random) -> K,
) -> Vec<K> {
    (0..n).map(|_| numbers(random)).collect()
}

impl<K: Float> Problem<K> {
    pub(crate) fn new(
        sizes: Sizes,
        lengths: &[u32],
        seed: u64,
        numbers: impl Fn(&mut Random) -> K,
    ) -> Self {
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

    pub(crate) fn plan(&self) -> Result<SummarizePlan, Error> {
        SummarizePlan::new(SummarizeShape {
            keys: self.keys,
            summaries: self.summaries,
            summary: self.summary,
            max_new: self.max_new,
            key_bytes: size_of::<K>() as u32,
            outlier_stride: self.summaries.n_rows() + 3,
        })
    }

    pub(crate) fn run<S: Score>(&self, queue: &Queue) -> Result<(Vec<u16>, Vec<u32>), Error> {
        self.run_by::<S>(queue, &self.plan()?)
    }

    /// By a plan of its own or another.
    pub(crate) fn run_by<S: Score>(
        &self,
        queue: &Queue,
        plan: &SummarizePlan,
    ) -> Result<(Vec<u16>, Vec<u32>), Error> {
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
        summarize(queue, plan, &inputs, &mut outputs)?;
        let rows = queue.download(&rows.view())?;
        let scores = queue.download(&scores.view())?;
        Ok((bytemuck::cast_slice(&rows).to_vec(), scores.iter().map(|x| x.to_bits()).collect()))
    }

    /// The keys of a summary that are there.
    pub(crate) fn chunk(&self, b: usize, t: u64, h: usize) -> Vec<&[K]> {
        let (keys, tokens_per_row) = (&self.keys, self.summaries.shape().tokens_per_row);
        let fan = tokens_per_row / keys.shape().tokens_per_row;
        let end = (t * fan + fan).min(keys.rows_of(self.lengths[b].into()));
        let place = |i| keys.locate(&self.table, b as u64, i, h as u64);
        let row_len = keys.shape().row_len as usize;
        (t * fan..end).filter_map(place).map(|at| &self.pool[at..][..row_len]).collect()
    }

    pub(crate) fn expect<S: Score>(&self) -> (Vec<u16>, Vec<u32>) {
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
pub(crate) fn assert_same<K: Float, S: Score>(problem: &Problem<K>) {
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
pub(crate) fn plain<S: Score>(random: &mut Random) -> S {
    S::from_f32(random.below(1 << 16) as f32 / 16_384.0 - 2.0)
}

/// The same, with special numbers among them; rare, so that some chunks have none.
pub(crate) fn odd<S: Score>(random: &mut Random) -> S {
    let few = [0.0, -0.0, 1e-7, -1e-7, 1e38, -1e38, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    match random.below(200) {
        i if i < few.len() => S::from_f32(few[i]),
        9 => S::from_f32(f32::from_bits(0xFFC0_0001)),
        _ => plain(random),
    }
}

pub(crate) fn any_e4m3(random: &mut Random) -> E4m3 {
    // NaN is one of 128: fewer.
    let code = random.below(256) as u8;
    E4m3(if code & 0x7F == 0x7F && random.below(16) != 0 { code ^ 1 } else { code })
}

pub(crate) fn any_e5m2(random: &mut Random) -> E5m2 {
    let code = random.below(256) as u8;
    E5m2(if code & 0x7F >= 0x7C && random.below(16) != 0 { code & 0xF7 } else { code })
}

pub(crate) const KINDS: [Summary; 4] =
    [Summary::Box, Summary::Mean, Summary::MeanAndOutlier, Summary::BoxOfBoxes];
