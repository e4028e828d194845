//! Evicted tokens merged into kept ones: three launches.

use half::bf16;
use lacuna::kv::{KvLayout, KvShape, KvViewMut};
use lacuna::select::reference::{self, Pages};
use lacuna::select::{MergeInputs, MergePlan, MergeState, MergeWeights, merge_rows};
use lacuna::{Buffer, Queue};

use crate::house::case::{Budget, Case, Problem, Work};

/// Heads of 128 in pages of 16, the first tokens kept. The case is one of the three launches'.
#[derive(Clone, Copy)]
struct Merge {
    kernel: &'static str,
    n_heads: u64,
    n_evicted: u64,
    n_kept: u64,
    is_small: bool,
}

impl Merge {
    fn plan(&self, batch: u64) -> MergePlan {
        let n_pages = (self.n_evicted + self.n_kept).div_ceil(16);
        let shape = KvShape {
            batch,
            n_heads: self.n_heads,
            row_len: 128,
            n_pages: batch * n_pages,
            page_size: 16,
            table_stride: n_pages,
            tokens_per_row: 1,
            page_stride: 0,
            token_stride: 0,
            head_stride: 0,
        };
        let layout = KvLayout::new(shape.nhd()).expect("a layout that is supported");
        MergePlan::new(layout, self.n_evicted, self.n_kept).expect("lists that are supported")
    }

    /// Of so many requests.
    fn inputs(&self, batch: u64, seed: u64) -> Inputs {
        let plan = self.plan(batch);
        let mut state = seed;
        let mut pool = || -> Vec<bf16> {
            let value = |_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                bf16::from_f32((state >> 33) as f32 / (1_u64 << 30) as f32 - 1.0)
            };
            (0..plan.layout().pool_len()).map(value).collect()
        };
        let (n_kept, n_all) = (self.n_kept as i32, (self.n_kept + self.n_evicted) as i32);
        let lists = 0..plan.n_lists();
        Inputs {
            page_table: (0..plan.layout().table_len() as i32).collect(),
            lengths: vec![n_all as u32; batch as usize],
            evicted: lists.clone().flat_map(|_| n_kept..n_all).collect(),
            kept: lists.flat_map(|_| 0..n_kept).collect(),
            keys: pool(),
            values: pool(),
        }
    }
}

struct Inputs {
    page_table: Vec<i32>,
    lengths: Vec<u32>,
    evicted: Vec<i32>,
    kept: Vec<i32>,
    keys: Vec<bf16>,
    values: Vec<bf16>,
}

impl Case for Merge {
    fn kernel(&self) -> &'static str {
        self.kernel
    }

    fn shape(&self) -> String {
        let Self { n_heads, n_evicted, n_kept, .. } = self;
        format!("{n_evicted} evicted into {n_kept}, {n_heads} heads of 128, bf16")
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        // Kept keys are read once for each 32 evicted ones, similarities once for each 32 kept; what says where a
        // row is takes a sector, once for its key and once for its value.
        let bytes = if self.n_evicted <= 32 { 1.35 } else { 1.65 };
        Budget { bytes, sectors_per_request: 5.0, conflict_ways: 1.1, barriers: 6.0 }
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let (plan, inputs) = (self.plan(1), self.inputs(1, 1));
        let pages = Pages { page_table: &inputs.page_table, lengths: &inputs.lengths };
        let lists = [&inputs.evicted[..], &inputs.kept[..]];
        let nearest = reference::nearest_kept(&plan, pages, &inputs.keys, lists[0], lists[1]);
        let n_evicted = self.n_evicted as usize;
        let similarities: Vec<_> = nearest.iter().flatten().map(|(_, s)| *s).collect();
        let thresholds: Vec<_> = similarities
            .chunks(n_evicted)
            .map(|own| reference::update_threshold(f32::NAN, own, 0.5))
            .collect();
        let mut expected = [inputs.keys.clone(), inputs.values.clone()];
        for pool in &mut expected {
            let weights = MergeWeights::Softmax;
            reference::merge_rows(&plan, pages, pool, lists, &nearest, &thresholds, weights);
        }
        let mut merged = std::collections::HashSet::new();
        let mut n_merged = 0;
        for (i, near) in nearest.iter().enumerate() {
            let Some((place, similarity)) = near else { continue };
            if *similarity >= thresholds[i / n_evicted] {
                merged.insert((i / n_evicted, place));
                n_merged += 1;
            }
        }
        // Keys of both lists; then rows that merge, and those that they merge into, read and written.
        let n_keys = plan.evicted_len() + plan.kept_len() + 2 * n_merged + 4 * merged.len() as u64;
        let n_words = 5 * plan.evicted_len() + 2 * plan.kept_len();
        let least_bytes = 256 * n_keys + 4 * n_words;
        Box::new(MergeProblem { case: *self, inputs, expected: expected.concat(), least_bytes })
    }
}

struct MergeProblem {
    case: Merge,
    inputs: Inputs,
    expected: Vec<bf16>,
    least_bytes: u64,
}

impl Problem for MergeProblem {
    fn least_bytes(&self) -> u64 {
        self.least_bytes
    }

    fn expected(&self) -> &[u8] {
        bytemuck::cast_slice(&self.expected)
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(MergeWork::new(self, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let last = MergeWork::new(self, queue, 2)?;
        Ok(vec![("after two requests more".to_owned(), Box::new(last))])
    }
}

/// Requests of which the last is looked at.
struct MergeWork {
    plan: MergePlan,
    inputs: Inputs,
    page_table: Buffer<i32>,
    lengths: Buffer<u32>,
    evicted: Buffer<i32>,
    kept: Buffer<i32>,
    keys: Buffer<bf16>,
    values: Buffer<bf16>,
    nearest: Buffer<i32>,
    similarities: Buffer<f32>,
    thresholds: Buffer<f32>,
    n_output: usize,
}

impl MergeWork {
    fn new(problem: &MergeProblem, queue: &Queue, n_more: u64) -> lacuna::Result<Self> {
        let plan = problem.case.plan(1 + n_more);
        let mut inputs = problem.case.inputs(1 + n_more, 7);
        let n_output = problem.inputs.keys.len();
        let first = inputs.keys.len() - n_output;
        inputs.keys[first..].copy_from_slice(&problem.inputs.keys);
        inputs.values[first..].copy_from_slice(&problem.inputs.values);
        let n_evicted = plan.evicted_len() as usize;
        Ok(Self {
            plan,
            page_table: queue.upload(&inputs.page_table)?,
            lengths: queue.upload(&inputs.lengths)?,
            evicted: queue.upload(&inputs.evicted)?,
            kept: queue.upload(&inputs.kept)?,
            keys: queue.upload(&inputs.keys)?,
            values: queue.upload(&inputs.values)?,
            nearest: queue.alloc(n_evicted)?,
            similarities: queue.alloc(n_evicted)?,
            thresholds: queue.upload(&vec![f32::NAN; plan.n_lists() as usize])?,
            n_output,
            inputs,
        })
    }
}

impl Work for MergeWork {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let inputs = MergeInputs {
            evicted: self.evicted.view(),
            kept: self.kept.view(),
            decay: 0.5,
            weights: MergeWeights::Softmax,
        };
        let mut state = MergeState {
            nearest: self.nearest.view_mut(),
            similarities: self.similarities.view_mut(),
            thresholds: self.thresholds.view_mut(),
        };
        let mut kv = KvViewMut {
            layout: *self.plan.layout(),
            keys: self.keys.view_mut(),
            values: Some(self.values.view_mut()),
            page_table: self.page_table.view(),
            lengths: self.lengths.view(),
        };
        merge_rows(queue, &self.plan, &inputs, &mut state, &mut kv)
    }

    /// What is merged is an input too: the cache as it was.
    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        queue.upload_into(&self.inputs.keys, &mut self.keys.view_mut())?;
        queue.upload_into(&self.inputs.values, &mut self.values.view_mut())?;
        let none = vec![f32::NAN; self.thresholds.len()];
        queue.upload_into(&none, &mut self.thresholds.view_mut())
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let mut all = Vec::new();
        for pool in [&self.keys, &self.values] {
            let n = pool.len();
            let last = queue.download(&pool.view().slice(n - self.n_output..n)?)?;
            all.extend_from_slice(bytemuck::cast_slice(&last));
        }
        Ok(all)
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    let [near, mean, merge] =
        ["select/nearest_kept", "select/update_thresholds", "select/merge_rows"];
    let cases = [
        (near, 2, 32, 48, true),
        (mean, 1, 20, 40, true),
        (merge, 1, 96, 64, true),
        (near, 8, 3072, 1024, false),
        (merge, 8, 31_000, 1700, false),
    ];
    let to_case = |(kernel, n_heads, n_evicted, n_kept, is_small)| {
        Box::new(Merge { kernel, n_heads, n_evicted, n_kept, is_small }) as _
    };
    cases.map(to_case).into()
}
