//! Attention mass of tokens from probes.

use half::bf16;
use lacuna::kv::{KvLayout, KvShape};
use lacuna::select::reference::Probed;
use lacuna::select::{MassInputs, MassOutputs, MassPlan, MassShape, column_mass};
use lacuna::{Buffer, Queue};

use crate::house::cache::{Cache, Placed, again, numbers};
use crate::house::case::{Budget, Case, Problem, Work, poison};

/// Requests of as many tokens and probes each, bf16, 128 to a head; one row of masses for all heads.
#[derive(Clone, Copy)]
struct Shape {
    batch: u64,
    n: u64,
    n_heads: u64,
    group: u64,
    n_probes: u64,
    /// What is looked at: the softmaxes of the first launch, or the masses of the second.
    is_first: bool,
    is_small: bool,
}

const HEAD_DIM: u64 = 128;

impl Shape {
    fn plan(&self, batch: u64) -> MassPlan {
        let n_pages = self.n.div_ceil(16);
        let shape = KvShape {
            batch,
            n_heads: self.n_heads,
            row_len: HEAD_DIM,
            n_pages: batch * n_pages,
            page_size: 16,
            table_stride: n_pages,
            ..KvShape::default()
        };
        let layout = KvLayout::new(shape.hnd()).expect("a layout that is supported");
        let shape = MassShape::of(layout, self.n_heads * self.group, self.n_probes);
        let (n, mass_stride) = (self.n, self.n);
        let plan = MassPlan::new(MassShape { n, mass_stride, is_per_probe: true, ..shape });
        plan.expect("a shape that is supported")
    }
}

impl Case for Shape {
    fn kernel(&self) -> &'static str {
        if self.is_first { "select/probe_rows" } else { "select/column_mass" }
    }

    fn shape(&self) -> String {
        let Self { batch, n, n_heads, group, n_probes, .. } = self;
        let n_q_heads = n_heads * group;
        format!(
            "{n_probes} probes of {n_q_heads} over {n} keys of {n_heads} heads in {batch} requests, bf16"
        )
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        // A tile's 256 keys are as many bytes as 256 queries, which every tile reads again.
        let again = (self.n_probes * self.group) as f64 / 256.0;
        Budget {
            bytes: 1.04 + again,
            sectors_per_request: 16.0,
            conflict_ways: 1.4,
            barriers: 8.0 + 4.0 * (self.n_heads * self.n_probes * self.group) as f64 / 16.0,
        }
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let plan = self.plan(self.batch);
        let layout = plan.shape().layout;
        let mut number = numbers();
        let probes: Vec<_> = (0..plan.probes_len()).map(|_| number()).collect();
        let cache = Cache::new(&layout, self.n, &mut number);
        let of_request =
            (0..self.n_probes).map(|probe| (self.n - self.n_probes + 1 + probe) as u32);
        let n_visible = of_request.collect::<Vec<_>>().repeat(self.batch as usize);
        let probed = Probed {
            probes: &probes,
            n_visible: &n_visible,
            keys: &cache.keys,
            page_table: &cache.page_table,
            lengths: &cache.lengths,
            key_scale: 1.0,
        };
        let (batch, n_probes) = (self.batch as usize, self.n_probes as usize);
        let expected: Vec<u8> = match self.is_first {
            true => {
                // `[batch, n_heads, n_probes, group]`
                let heads =
                    (0..batch).flat_map(|b| (0..self.n_heads as usize).map(move |h| (b, h)));
                let probes = heads.flat_map(|(b, h)| (0..n_probes).map(move |p| (b, h, p)));
                let group = self.group as usize;
                let all =
                    probes.flat_map(|(b, h, p)| (0..group).map(move |g| (b, p, h * group + g)));
                let bits = all.map(|(b, p, q)| probed.softmax(&plan, b, p, q).to_bits());
                bits.flat_map(u64::to_le_bytes).collect()
            }
            false => {
                let rows = (0..batch).flat_map(|b| probed.request(&plan, b).concat());
                rows.flat_map(f32::to_le_bytes).collect()
            }
        };
        Box::new(Requests { case: *self, probes, n_visible, cache, expected })
    }
}

struct Requests {
    case: Shape,
    probes: Vec<bf16>,
    n_visible: Vec<u32>,
    cache: Cache,
    expected: Vec<u8>,
}

impl Problem for Requests {
    fn least_bytes(&self) -> u64 {
        // Both launches read the keys.
        let plan = self.case.plan(self.case.batch);
        2 * plan.least_bytes(2, 2) + 4 * plan.masses_len()
    }

    fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let last = Launch::new(self, queue, 1)?;
        Ok(vec![("after the first request again".to_owned(), Box::new(last))])
    }
}

/// Launches whose last requests are looked at.
struct Launch {
    plan: MassPlan,
    probes: Buffer<bf16>,
    n_visible: Buffer<u32>,
    cache: Placed,
    masses: Buffer<f32>,
    softmaxes: Buffer<u64>,
    workspace: Buffer<u64>,
    n_expected: usize,
    is_first: bool,
}

impl Launch {
    /// The first request is there `n_more` times more.
    fn new(requests: &Requests, queue: &Queue, n_more: usize) -> lacuna::Result<Self> {
        let batch = requests.case.batch as usize;
        let plan = requests.case.plan((batch + n_more) as u64);
        Ok(Self {
            probes: queue.upload(&again(&requests.probes, batch, n_more))?,
            n_visible: queue.upload(&again(&requests.n_visible, batch, n_more))?,
            cache: requests.cache.place(queue, plan.shape().layout, n_more)?,
            masses: queue.alloc(plan.masses_len() as usize)?,
            softmaxes: queue.alloc(plan.n_softmaxes() as usize)?,
            workspace: queue.alloc(plan.workspace_len() as usize)?,
            n_expected: requests.expected.len(),
            is_first: requests.case.is_first,
            plan,
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let inputs = MassInputs {
            probes: self.probes.view(),
            n_visible: self.n_visible.view(),
            cache: self.cache.view(),
            skips: None,
        };
        let mut outputs = MassOutputs {
            masses: self.masses.view_mut(),
            softmaxes: self.softmaxes.view_mut(),
            workspace: self.workspace.view_mut(),
        };
        column_mass(queue, &self.plan, &inputs, &mut outputs)
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.softmaxes)?;
        poison(queue, &mut self.masses)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let all: Vec<u8> = match self.is_first {
            true => bytemuck::cast_slice(&queue.download(&self.softmaxes.view())?).to_vec(),
            false => bytemuck::cast_slice(&queue.download(&self.masses.view())?).to_vec(),
        };
        Ok(all[all.len() - self.n_expected..].to_vec())
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    [
        (1, 1000, 2, 4, 1, false, true),
        (2, 600, 1, 4, 9, false, true),
        (2, 600, 1, 4, 9, true, true),
        (1, 1 << 17, 8, 4, 1, false, false),
        (1, 1 << 14, 8, 4, 128, false, false),
    ]
    .map(|(batch, n, n_heads, group, n_probes, is_first, is_small)| {
        Box::new(Shape { batch, n, n_heads, group, n_probes, is_first, is_small }) as _
    })
    .into()
}
