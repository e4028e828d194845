//! What `column_mass` must do, written for reading.

use super::MassPlan;
use crate::element::Float;
use crate::number;
use crate::select::Score;
use crate::select::vote::reference::Softmax;

/// Probes and what they see, on the host.
#[derive(Debug, Clone, Copy)]
pub struct Probed<'a, Q, K> {
    /// `[batch, n_probes, n_q_heads, head_dim]`, with the plan's strides.
    pub probes: &'a [Q],
    /// `[batch, n_probes]`: tokens that a probe sees.
    pub n_visible: &'a [u32],
    /// The pool.
    pub keys: &'a [K],
    /// `[batch, table_stride]`.
    pub page_table: &'a [i32],
    /// `[batch]`.
    pub lengths: &'a [u32],
    /// What products are multiplied by.
    pub key_scale: f32,
}

impl<Q: Score, K: Float> Probed<'_, Q, K> {
    /// Tokens of a request that have a mass.
    pub fn n_rows(&self, plan: &MassPlan, b: usize) -> usize {
        plan.shape().layout.rows_of(self.lengths[b].into()).min(plan.shape().n) as usize
    }

    /// The scores of one probe and query head against all tokens: -inf where it sees none.
    fn scores(&self, plan: &MassPlan, b: usize, probe: usize, q: usize) -> Vec<f32> {
        let shape = plan.shape();
        let d = shape.layout.shape().row_len as usize;
        let start = b * shape.request_stride as usize + probe * shape.probe_stride as usize + q * d;
        let query: Vec<f32> = self.probes[start..][..d].iter().map(|x| x.to_f32()).collect();
        let n_seen = self.n_visible[b * shape.n_probes as usize + probe] as usize;
        let head = q as u64 / plan.group();
        let score = |t: usize| {
            let start = shape.layout.locate(self.page_table, b as u64, t as u64, head);
            let Some(start) = start.filter(|_| t < n_seen) else { return f32::NEG_INFINITY };
            let key: Vec<f32> = self.keys[start..][..d].iter().map(|x| x.to_f32()).collect();
            number::dot(&query, &key) * self.key_scale
        };
        (0..self.n_rows(plan, b)).map(score).collect()
    }

    /// The softmax of one probe and query head.
    pub fn softmax(&self, plan: &MassPlan, b: usize, probe: usize, q: usize) -> Softmax {
        let scores = self.scores(plan, b, probe, q);
        Softmax::of_tiles(&scores, plan.log2_scale(), plan.tile() as usize)
    }

    /// The masses of a request, `n_out` rows: sums over heads of keys, then probes, then a group's query heads, each ascending.
    pub fn request(&self, plan: &MassPlan, b: usize) -> Vec<Vec<f32>> {
        let shape = plan.shape();
        let group = plan.group() as usize;
        let n_together = plan.n_heads_together() as usize;
        let n_rows = self.n_rows(plan, b);
        let seen = &self.n_visible[b * shape.n_probes as usize..][..shape.n_probes as usize];
        let rows = (0..plan.n_out() as usize).map(|out| {
            let mut masses = vec![0.0_f32; n_rows];
            for head in out * n_together..(out + 1) * n_together {
                for probe in 0..shape.n_probes as usize {
                    for q in head * group..(head + 1) * group {
                        let scores = self.scores(plan, b, probe, q);
                        let softmax = self.softmax(plan, b, probe, q);
                        for (mass, score) in masses.iter_mut().zip(scores) {
                            let weight = softmax.weigh(score, plan.log2_scale());
                            *mass = weight.mul_add(softmax.reciprocal, *mass);
                        }
                    }
                }
            }
            for (t, mass) in masses.iter_mut().enumerate() {
                *mass *= plan.mass_scale();
                let n_seeing = seen.iter().filter(|n_seen| t < **n_seen as usize).count();
                if shape.is_per_probe {
                    *mass = if n_seeing == 0 { 0.0 } else { *mass / n_seeing as f32 };
                }
            }
            masses
        });
        rows.collect()
    }
}
