//! What the benches of kernels that decode groups share: groups of one kind and another, and launches over several.

use half::bf16;
use lacuna::huffman::DeviceWeights;
use lacuna::{Buffer, Queue};

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

/// A launch over groups, one of which is looked at.
pub(crate) struct Launch {
    weights: DeviceWeights<'static>,
    workspace: Buffer<u64>,
    output: Buffer<bf16>,
    idx: usize,
}

impl Launch {
    pub(crate) fn new(
        queue: &Queue,
        weights: DeviceWeights<'static>,
        idx: usize,
    ) -> lacuna::Result<Self> {
        let workspace = queue.alloc(weights.plan().workspace_len() as usize)?;
        let output = queue.alloc(weights.plan().output_len() as usize)?;
        Ok(Self { weights, workspace, output, idx })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let Self { weights, workspace, output, .. } = self;
        weights.decode(queue, &mut workspace.view_mut(), &mut output.view_mut())
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.output)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        self.weights.check(queue, &self.workspace.view())?;
        let range = self.weights.plan().output_range(self.idx).expect("a group of the launch");
        let view = self.output.view().slice(range.start as usize..range.end as usize)?;
        Ok(bytemuck::cast_slice(&queue.download(&view)?).to_vec())
    }
}
