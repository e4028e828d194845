//! What the benches of kernels that decode groups share: groups of one kind and another, and launches over several.

use std::ops::Range;

use half::bf16;
use lacuna::huffman::DeviceWeights;
use lacuna::huffman::indexed::IndexedWeights;
use lacuna::{Buffer, Queue, View, ViewMut};

use crate::house::case::{Budget, Case, Problem, Work, poison};
use crate::{GOLDEN, N_OTHERS, PUBLISHED_COLUMNS, PUBLISHED_ROWS, Weights};

/// One group of some weights.
pub(crate) struct OfGroup<P> {
    pub(crate) kernel: &'static str,
    pub(crate) shape: String,
    pub(crate) weights: Weights,
    pub(crate) budget: Budget,
    pub(crate) problem: P,
}

impl<P: Fn(Vec<u16>) -> Box<dyn Problem>> Case for OfGroup<P> {
    fn kernel(&self) -> &'static str {
        self.kernel
    }

    fn shape(&self) -> String {
        self.shape.clone()
    }

    fn is_small(&self) -> bool {
        self.weights.is_small()
    }

    fn budget(&self) -> Budget {
        self.budget
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        (self.problem)(self.weights.make())
    }
}

/// Groups of few weights, of golden files, and as large as published ones; of the first five, what is moved over the least.
pub(crate) fn shapes(budget: Budget, bytes: [f64; 5]) -> Vec<(Weights, String, Budget)> {
    let few = [(1, "1"), (N_OTHERS, "30,001"), (1 << 18, "256 Ki")]
        .map(|(n_weights, name)| (Weights::Random(n_weights), format!("{name} weights")));
    let golden = GOLDEN.map(|(file, shape)| (Weights::Golden(file), shape.to_owned()));
    let small = few.into_iter().chain(golden).zip(bytes);
    let small = small.map(|((weights, shape), bytes)| (weights, shape, Budget { bytes, ..budget }));
    let published = PUBLISHED_COLUMNS.map(|n_columns| {
        let weights = Weights::Random(PUBLISHED_ROWS * n_columns);
        (weights, format!("{PUBLISHED_ROWS} x {n_columns}"), budget)
    });
    small.chain(published).collect()
}

/// Groups in device memory, decoded by one launch.
pub(crate) trait Groups {
    fn workspace_len(&self) -> u64;

    fn output_len(&self) -> u64;

    fn output_range(&self, idx: usize) -> Option<Range<u64>>;

    fn decode(
        &self,
        queue: &Queue,
        workspace: &mut ViewMut<'_, u64>,
        output: &mut ViewMut<'_, bf16>,
    ) -> lacuna::Result<()>;

    fn check(&self, queue: &Queue, workspace: &View<'_, u64>) -> lacuna::Result<()>;
}

macro_rules! groups {
    ($Weights:ident) => {
        impl Groups for $Weights<'static> {
            fn workspace_len(&self) -> u64 {
                self.plan().workspace_len()
            }

            fn output_len(&self) -> u64 {
                self.plan().output_len()
            }

            fn output_range(&self, idx: usize) -> Option<Range<u64>> {
                self.plan().output_range(idx)
            }

            fn decode(
                &self,
                queue: &Queue,
                workspace: &mut ViewMut<'_, u64>,
                output: &mut ViewMut<'_, bf16>,
            ) -> lacuna::Result<()> {
                $Weights::decode(self, queue, workspace, output)
            }

            fn check(&self, queue: &Queue, workspace: &View<'_, u64>) -> lacuna::Result<()> {
                $Weights::check(self, queue, workspace)
            }
        }
    };
}

groups!(DeviceWeights);
groups!(IndexedWeights);

/// A launch over groups, one of which is looked at.
pub(crate) struct Launch<G> {
    groups: G,
    workspace: Buffer<u64>,
    output: Buffer<bf16>,
    idx: usize,
}

impl<G: Groups> Launch<G> {
    pub(crate) fn new(queue: &Queue, groups: G, idx: usize) -> lacuna::Result<Self> {
        let workspace = queue.alloc(groups.workspace_len() as usize)?;
        let output = queue.alloc(groups.output_len() as usize)?;
        Ok(Self { groups, workspace, output, idx })
    }
}

impl<G: Groups> Work for Launch<G> {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let Self { groups, workspace, output, .. } = self;
        groups.decode(queue, &mut workspace.view_mut(), &mut output.view_mut())
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.output)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        self.groups.check(queue, &self.workspace.view())?;
        let range = self.groups.output_range(self.idx).expect("a group of the launch");
        let view = self.output.view().slice(range.start as usize..range.end as usize)?;
        Ok(bytemuck::cast_slice(&queue.download(&view)?).to_vec())
    }
}
