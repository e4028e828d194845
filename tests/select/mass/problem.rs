//! Problems for `column_mass`, and what must come of them.

use lacuna::kv::{KvLayout, KvShape, KvView};
use lacuna::select::reference::Probed;
use lacuna::select::{MassInputs, MassOutputs, MassPlan, MassShape, Score, column_mass};
use lacuna::{Error, Queue};

use crate::common::Random;
use crate::score_problem::Key;

/// Requests with probes and a paged cache.
#[derive(Debug, Clone)]
pub(crate) struct Problem<Q, K> {
    pub(crate) plan: MassPlan,
    pub(crate) probes: Vec<Q>,
    pub(crate) n_visible: Vec<u32>,
    pub(crate) keys: Vec<K>,
    pub(crate) page_table: Vec<i32>,
    pub(crate) lengths: Vec<u32>,
    pub(crate) skips: Option<Vec<u32>>,
    pub(crate) key_scale: f32,
}

/// What proptest and tables vary.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) lengths: [u32; 2],
    pub(crate) n_heads: u64,
    pub(crate) group: u64,
    pub(crate) head_dim: u64,
    pub(crate) n_probes: u64,
    pub(crate) n: u64,
    pub(crate) is_over_all_heads: bool,
    pub(crate) is_mean: bool,
    pub(crate) is_per_probe: bool,
}

pub(crate) const CASE: Case = Case {
    seed: 1,
    lengths: [300, 9],
    n_heads: 2,
    group: 3,
    head_dim: 24,
    n_probes: 7,
    n: 300,
    is_over_all_heads: true,
    is_mean: false,
    is_per_probe: false,
};

impl Case {
    pub(crate) fn plan(&self) -> Result<MassPlan, Error> {
        let longest = self.lengths.iter().max().copied().unwrap_or(0);
        let table_stride = u64::from(longest).div_ceil(5) + 1;
        let shape = KvShape {
            batch: 2,
            n_heads: self.n_heads,
            row_len: self.head_dim,
            n_pages: 2 * table_stride,
            page_size: 5,
            table_stride,
            ..KvShape::default()
        };
        let probe_stride = self.n_heads * self.group * self.head_dim + 3;
        MassPlan::new(MassShape {
            layout: KvLayout::new(shape.nhd())?,
            n_q_heads: self.n_heads * self.group,
            n_probes: self.n_probes,
            request_stride: self.n_probes * probe_stride + 5,
            probe_stride,
            n: self.n,
            mass_stride: self.n + 2,
            is_over_all_heads: self.is_over_all_heads,
            is_mean: self.is_mean,
            is_per_probe: self.is_per_probe,
            softmax_scale: 1.0 / (self.head_dim as f32).sqrt(),
        })
    }

    /// The last probes of a prompt see all but a few of its tokens, each one more than the one before.
    pub(crate) fn build<Q: Score, K: Key>(&self) -> Problem<Q, K> {
        let plan = self.plan().unwrap();
        let layout = plan.shape().layout;
        let mut random = Random(self.seed);
        let probes = (0..plan.probes_len()).map(|_| Q::from_f32(random.number() * 2.0)).collect();
        let keys = (0..layout.pool_len()).map(|_| K::make(&mut random)).collect();
        let page_table = (0..layout.table_len() as i32).rev().collect();
        let n_visible = self.lengths.iter().flat_map(|length| {
            (0..self.n_probes as u32)
                .map(move |p| (length + 1 + p).saturating_sub(self.n_probes as u32))
        });
        Problem {
            plan,
            probes,
            n_visible: n_visible.collect(),
            keys,
            page_table,
            lengths: self.lengths.to_vec(),
            skips: None,
            key_scale: 1.0,
        }
    }
}

/// What is in outputs before a launch.
const POISON: f32 = -12_345.0;
const POISON_BITS: u64 = 0x5EED_5EED_5EED_5EED;

impl<Q: Score, K: Key> Problem<Q, K> {
    /// Masses as bits, and softmaxes.
    pub(crate) fn run(&self, queue: &Queue) -> Result<(Vec<u32>, Vec<u64>), Error> {
        let probes = queue.upload(&self.probes)?;
        let n_visible = queue.upload(&self.n_visible)?;
        let keys = queue.upload(&self.keys)?;
        let page_table = queue.upload(&self.page_table)?;
        let lengths = queue.upload(&self.lengths)?;
        let skips = self.skips.as_ref().map(|skips| queue.upload(skips)).transpose()?;
        let inputs = MassInputs {
            probes: probes.view(),
            n_visible: n_visible.view(),
            cache: KvView {
                layout: self.plan.shape().layout,
                keys: keys.view(),
                values: None,
                page_table: page_table.view(),
                lengths: lengths.view(),
                key_scale: self.key_scale,
                value_scale: 1.0,
            },
            skips: skips.as_ref().map(|skips| skips.view()),
        };
        let mut masses = queue.upload(&vec![POISON; self.plan.masses_len() as usize])?;
        let mut softmaxes = queue.upload(&vec![POISON_BITS; self.plan.n_softmaxes() as usize])?;
        let mut workspace = queue.alloc(self.plan.workspace_len() as usize)?;
        for _ in 0..2 {
            let mut outputs = MassOutputs {
                masses: masses.view_mut(),
                softmaxes: softmaxes.view_mut(),
                workspace: workspace.view_mut(),
            };
            column_mass(queue, &self.plan, &inputs, &mut outputs)?;
        }
        let masses = queue.download(&masses.view())?;
        let bits = masses.into_iter().map(f32::to_bits).collect();
        Ok((bits, queue.download(&softmaxes.view())?))
    }

    pub(crate) fn probed(&self) -> Probed<'_, Q, K> {
        Probed {
            probes: &self.probes,
            n_visible: &self.n_visible,
            keys: &self.keys,
            page_table: &self.page_table,
            lengths: &self.lengths,
            key_scale: self.key_scale,
        }
    }

    pub(crate) fn expect(&self) -> (Vec<u32>, Vec<u64>) {
        let shape = self.plan.shape();
        let mut masses = vec![POISON.to_bits(); self.plan.masses_len() as usize];
        let mut softmaxes = vec![POISON_BITS; self.plan.n_softmaxes() as usize];
        let (n_probes, group) = (shape.n_probes as usize, self.plan.group() as usize);
        let is_skipped =
            |b: usize| self.skips.as_ref().is_some_and(|skips: &Vec<u32>| skips[b] != 0);
        for b in (0..self.lengths.len()).filter(|b| !is_skipped(*b)) {
            for (out, row) in self.probed().request(&self.plan, b).iter().enumerate() {
                let at = (b * self.plan.n_out() as usize + out) * shape.mass_stride as usize;
                let target = masses[at..].iter_mut();
                target.zip(row).for_each(|(target, mass)| *target = mass.to_bits());
            }
            for q in 0..shape.n_q_heads as usize {
                for probe in 0..n_probes {
                    let head = b * shape.layout.shape().n_heads as usize + q / group;
                    let at = (head * n_probes + probe) * group + q % group;
                    softmaxes[at] = self.probed().softmax(&self.plan, b, probe, q).to_bits();
                }
            }
        }
        (masses, softmaxes)
    }
}
