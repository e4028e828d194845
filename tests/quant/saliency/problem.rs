//! Prompts, steps and states, and what must become of them; caches of values, and their norms.

use half::{bf16, f16};
use lacuna::attention::{LogBase, LogSumOrder};
use lacuna::element::{E4m3, E5m2, Float};
use lacuna::kv::{KvLayout, KvLists, KvShape, KvView};
use lacuna::quant::reference::{Seen, norm_of_row, weigh_token};
use lacuna::quant::{
    MassesOfPrompt, Norm, NormsPlan, NormsShape, SaliencyInputs, SaliencyPlan, SaliencyShape,
    SaliencyState, StepLogits, add_saliency, begin_saliency, measure_norms, weigh_saliency,
};
use lacuna::select::{MassPlan, MassShape};
use lacuna::{Buffer, Error, Queue};

use crate::cache::{Cache, layout_of, scatter, shuffle, upload_some};
use crate::common::Random;

/// What is in outputs before.
const POISON: f32 = -12_345.0;

/// What proptest and tables vary.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) lengths: Vec<u32>,
    pub(crate) n_probes: u64,
    pub(crate) n_massed: u64,
    pub(crate) has_tokens: bool,
    pub(crate) has_skips: bool,
    pub(crate) has_lengths: bool,
    pub(crate) has_norms: bool,
    /// Wild tokens, logits, log-sums and states.
    pub(crate) is_hostile: bool,
    /// But for the batch, which the lengths have.
    pub(crate) shape: SaliencyShape,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            seed: 1,
            lengths: vec![290, 40],
            n_probes: 9,
            n_massed: 280,
            has_tokens: true,
            has_skips: false,
            has_lengths: true,
            has_norms: true,
            is_hostile: false,
            shape: SaliencyShape { n_positions: 330, ..SaliencyShape::of(2, 6, 2, 300) },
        }
    }
}

/// All that the launches take.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) plan: SaliencyPlan,
    pub(crate) mass_plan: MassPlan,
    pub(crate) masses: Vec<f32>,
    pub(crate) n_visible: Vec<u32>,
    pub(crate) lengths: Vec<u32>,
    pub(crate) has_lengths: bool,
    pub(crate) skips: Option<Vec<u32>>,
    pub(crate) logits: Vec<f32>,
    pub(crate) log_sums: Vec<f32>,
    pub(crate) tokens: Option<Vec<i32>>,
    pub(crate) sums: Vec<f32>,
    pub(crate) counts: Vec<f32>,
    pub(crate) norms: Option<Vec<f32>>,
}

const WILD: [f32; 6] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38, -3e38, -0.0];

impl Case {
    pub(crate) fn plan(&self) -> Result<SaliencyPlan, Error> {
        SaliencyPlan::new(SaliencyShape { batch: self.lengths.len() as u64, ..self.shape })
    }

    pub(crate) fn mass_plan(&self) -> Result<MassPlan, Error> {
        let kv = KvShape {
            batch: self.lengths.len() as u64,
            n_heads: self.shape.n_heads,
            row_len: 8,
            n_pages: 1,
            page_size: 1,
            table_stride: 1,
            ..KvShape::default()
        };
        MassPlan::new(MassShape {
            n: self.n_massed,
            mass_stride: self.n_massed + 3,
            is_over_all_heads: false,
            is_mean: false,
            ..MassShape::of(KvLayout::new(kv.nhd())?, self.shape.n_q_heads, self.n_probes)
        })
    }

    pub(crate) fn build(&self) -> Problem {
        let (plan, mass_plan) = (self.plan().unwrap(), self.mass_plan().unwrap());
        let shape = *plan.shape();
        let mut random = Random(self.seed);
        let batch = self.lengths.len();
        let mut number = |scale: f32| scale * (random.next() % 4093) as f32 / 4093.0;
        let mut masses: Vec<f32> = (0..mass_plan.masses_len()).map(|_| number(2.0)).collect();
        let mut logits: Vec<f32> = (0..plan.logits_len())
            .map(|_| if number(10.0) < 1.0 { f32::NEG_INFINITY } else { number(9.0) - 6.0 })
            .collect();
        // What no row sees.
        for (i, logit) in logits.iter_mut().enumerate() {
            if i as u64 % shape.n_positions % 37 == 5 {
                *logit = f32::NEG_INFINITY;
            }
        }
        let mut log_sums: Vec<f32> = (0..plan.log_sums_len()).map(|_| 3.0 + number(4.0)).collect();
        let n_state = plan.state_len();
        let mut sums: Vec<f32> = (0..n_state).map(|_| number(3.0)).collect();
        let mut counts: Vec<f32> = (0..n_state).map(|_| number(6.0).floor()).collect();
        let mut norms: Vec<f32> = (0..n_state).map(|_| 0.1 + number(5.0)).collect();
        let n_visible = (0..batch as u64 * self.n_probes)
            .map(|_| number(shape.n_tokens as f32 + 2.0) as u32)
            .collect();
        let mut tokens: Vec<i32> = (0..batch as u64 * shape.n_heads)
            .flat_map(|_| {
                let n = shape.n_positions.max(shape.n_tokens) as usize;
                let none = [-1, i32::MIN, i32::MAX, shape.n_tokens as i32];
                let mut all: Vec<i32> = (0..n)
                    .map(|i| if i < shape.n_tokens as usize { i as i32 } else { none[i % 4] })
                    .collect();
                shuffle(&mut all, &mut random);
                all.truncate(shape.n_positions as usize);
                all
            })
            .collect();
        if self.is_hostile {
            scatter(&mut logits, 7, &WILD);
            scatter(&mut masses, 23, &WILD);
            // Of each request some rows, too.
            scatter(&mut log_sums, 5, &WILD);
            scatter(&mut tokens, 11, &[-1, i32::MIN, i32::MAX, shape.n_tokens as i32, -7]);
            scatter(&mut sums, 13, &WILD);
            scatter(&mut counts, 17, &WILD);
            scatter(&mut norms, 19, &WILD);
        }
        Problem {
            mass_plan,
            masses,
            n_visible,
            lengths: self.lengths.clone(),
            has_lengths: self.has_lengths,
            skips: self.has_skips.then(|| (0..batch as u32).map(|b| 3 * ((b + 1) % 2)).collect()),
            logits,
            log_sums,
            tokens: self.has_tokens.then_some(tokens),
            sums,
            counts,
            norms: self.has_norms.then_some(norms),
            plan,
        }
    }
}

pub(crate) fn bits(floats: &[f32]) -> Vec<u32> {
    floats.iter().map(|x| x.to_bits()).collect()
}

impl Problem {
    pub(crate) fn begin(&self, queue: &Queue) -> Result<[Vec<u32>; 2], Error> {
        let n = self.sums.len();
        let state = [queue.upload(&vec![POISON; n])?, queue.upload(&vec![POISON; n])?];
        let (masses, n_visible) = (queue.upload(&self.masses)?, queue.upload(&self.n_visible)?);
        let lengths = queue.upload(&self.lengths)?;
        let skips = upload_some(queue, self.skips.as_ref())?;
        let inputs = MassesOfPrompt {
            masses: masses.view(),
            n_visible: n_visible.view(),
            lengths: lengths.view(),
            skips: skips.as_ref().map(Buffer::view),
        };
        with_state(queue, state, |state| {
            begin_saliency(queue, &self.plan, &self.mass_plan, &inputs, state)
        })
    }

    pub(crate) fn add(&self, queue: &Queue) -> Result<[Vec<u32>; 2], Error> {
        let state = [queue.upload(&self.sums)?, queue.upload(&self.counts)?];
        let (logits, log_sums) = (queue.upload(&self.logits)?, queue.upload(&self.log_sums)?);
        let tokens = upload_some(queue, self.tokens.as_ref())?;
        let skips = upload_some(queue, self.skips.as_ref())?;
        let inputs = StepLogits {
            logits: logits.view(),
            log_sums: log_sums.view(),
            tokens: tokens.as_ref().map(Buffer::view),
            skips: skips.as_ref().map(Buffer::view),
        };
        with_state(queue, state, |state| add_saliency(queue, &self.plan, &inputs, state))
    }

    pub(crate) fn weigh(&self, queue: &Queue) -> Result<Vec<u32>, Error> {
        let (sums, counts) = (queue.upload(&self.sums)?, queue.upload(&self.counts)?);
        let lengths = queue.upload(&self.lengths)?;
        let norms = upload_some(queue, self.norms.as_ref())?;
        let skips = upload_some(queue, self.skips.as_ref())?;
        let mut scores = queue.upload(&vec![POISON; self.plan.scores_len() as usize])?;
        let inputs = SaliencyInputs {
            sums: sums.view(),
            counts: counts.view(),
            norms: norms.as_ref().map(Buffer::view),
            lengths: self.has_lengths.then(|| lengths.view()),
            skips: skips.as_ref().map(Buffer::view),
        };
        weigh_saliency(queue, &self.plan, &inputs, &mut scores.view_mut())?;
        Ok(bits(&queue.download(&scores.view())?))
    }

    fn is_skipped(&self, b: usize) -> bool {
        self.skips.as_ref().is_some_and(|skips| skips[b] != 0)
    }

    /// Requests that are not skipped, their heads, and the number of each of these among all.
    fn heads(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let n_heads = self.plan.shape().n_heads as usize;
        let all = (0..self.lengths.len()).filter(|b| !self.is_skipped(*b));
        all.flat_map(move |b| (0..n_heads).map(move |h| (b, h, b * n_heads + h)))
    }

    pub(crate) fn expect_begun(&self) -> [Vec<u32>; 2] {
        let (n, n_massed) = (self.plan.shape().n_tokens as usize, self.mass_plan.shape().n);
        let stride = self.mass_plan.shape().mass_stride as usize;
        let n_probes = self.mass_plan.shape().n_probes as usize;
        let [mut sums, mut counts] =
            [vec![POISON; n * self.n_rows()], vec![POISON; n * self.n_rows()]];
        for (b, _, head) in self.heads() {
            let probes = &self.n_visible[b * n_probes..][..n_probes];
            for i in 0..n {
                let is_there = i < self.lengths[b] as usize && i < n_massed as usize;
                let n_seeing = probes.iter().filter(|n| (i as u32) < **n).count() as u32;
                let seen = match is_there {
                    true => Seen::of_prompt(
                        self.masses[head * stride + i],
                        self.plan.group() as u32 * n_seeing,
                    ),
                    false => Seen::default(),
                };
                (sums[head * n + i], counts[head * n + i]) = (seen.sum, seen.count);
            }
        }
        [bits(&sums), bits(&counts)]
    }

    fn n_rows(&self) -> usize {
        self.lengths.len() * self.plan.shape().n_heads as usize
    }

    pub(crate) fn expect_added(&self) -> [Vec<u32>; 2] {
        let shape = self.plan.shape();
        let (n, n_positions) = (shape.n_tokens as usize, shape.n_positions as usize);
        let (n_queries, n_q_heads) = (shape.n_queries as usize, shape.n_q_heads as usize);
        let group = self.plan.group() as usize;
        let sizes = [shape.batch * shape.n_queries, shape.n_queries, shape.n_q_heads];
        let [mut sums, mut counts] = [self.sums.clone(), self.counts.clone()];
        for (b, h, head) in self.heads() {
            for p in 0..n_positions {
                let token = match &self.tokens {
                    Some(tokens) => i64::from(tokens[head * n_positions + p]),
                    None => p as i64,
                };
                let Some(i) = usize::try_from(token).ok().filter(|i| *i < n) else { continue };
                let rows = (0..n_queries * group).map(|r| {
                    let (token, q_head) = (b * n_queries + r / group, h * group + r % group);
                    let at = shape.log_sum_order.locate(sizes, [token as u64, q_head as u64]);
                    let logit = self.logits[(token * n_q_heads + q_head) * n_positions + p];
                    [logit, self.log_sums[at as usize]]
                });
                let at = head * n + i;
                let seen = Seen { sum: sums[at], count: counts[at] }.add(shape, rows);
                (sums[at], counts[at]) = (seen.sum, seen.count);
            }
        }
        [bits(&sums), bits(&counts)]
    }

    pub(crate) fn expect_scores(&self) -> Vec<u32> {
        let shape = self.plan.shape();
        let (n, n_together) = (shape.n_tokens as usize, self.plan.n_heads_together() as usize);
        let n_lists = self.plan.n_lists() as usize;
        let mut scores = vec![POISON; self.plan.scores_len() as usize];
        for b in (0..self.lengths.len()).filter(|b| !self.is_skipped(*b)) {
            let length = if self.has_lengths { self.lengths[b] as usize } else { n };
            for (l, i) in (0..n_lists).flat_map(|l| (0..n.min(length)).map(move |i| (l, i))) {
                let list = b * n_lists + l;
                let heads = (list * n_together..(list + 1) * n_together).map(|head| {
                    let at = head * n + i;
                    let seen = Seen { sum: self.sums[at], count: self.counts[at] };
                    (seen, self.norms.as_ref().map(|norms| norms[at]))
                });
                scores[list * n + i] = weigh_token(shape, &heads.collect::<Vec<_>>());
            }
        }
        bits(&scores)
    }
}

fn with_state(
    queue: &Queue,
    [mut sums, mut counts]: [Buffer<f32>; 2],
    launch: impl FnOnce(&mut SaliencyState<'_>) -> Result<(), Error>,
) -> Result<[Vec<u32>; 2], Error> {
    launch(&mut SaliencyState { sums: sums.view_mut(), counts: counts.view_mut() })?;
    Ok([bits(&queue.download(&sums.view())?), bits(&queue.download(&counts.view())?)])
}

pub(crate) const ORDERS: [LogSumOrder; 3] =
    [LogSumOrder::TokensHeads, LogSumOrder::HeadsTokens, LogSumOrder::BatchHeadsQueries];
pub(crate) const BASES: [LogBase; 2] = [LogBase::E, LogBase::Two];
pub(crate) const LISTS: [KvLists; 2] = [KvLists::PerHead, KvLists::PerRequest];

/// Elements of values.
pub(crate) trait Value: Float {
    fn make(random: &mut Random, is_hostile: bool) -> Self;
}

impl Value for bf16 {
    fn make(random: &mut Random, is_hostile: bool) -> Self {
        let is_wild = is_hostile && random.next().is_multiple_of(90);
        bf16::from_f32(if is_wild { WILD[random.next() as usize % 6] } else { random.normal() })
    }
}

impl Value for f16 {
    fn make(random: &mut Random, is_hostile: bool) -> Self {
        f16::from_f32(bf16::make(random, is_hostile).to_f32())
    }
}

impl Value for E4m3 {
    fn make(random: &mut Random, is_hostile: bool) -> Self {
        let bits = random.next() as u8;
        E4m3(if !is_hostile && bits & 0x7F == 0x7F { bits & 0x80 } else { bits })
    }
}

impl Value for E5m2 {
    fn make(random: &mut Random, is_hostile: bool) -> Self {
        let bits = random.next() as u8;
        E5m2(if is_hostile { bits } else { bits & 0xBF })
    }
}

/// What proptest and tables vary of norms.
#[derive(Debug, Clone)]
pub(crate) struct NormCase {
    pub(crate) seed: u64,
    pub(crate) lengths: Vec<u32>,
    /// Or all rows.
    pub(crate) firsts: Option<Vec<u32>>,
    pub(crate) n_heads: u64,
    pub(crate) head_dim: u64,
    pub(crate) page_size: u64,
    pub(crate) is_hnd: bool,
    pub(crate) n_tokens: u64,
    pub(crate) max_new: u64,
    pub(crate) norm: Norm,
    pub(crate) value_scale: f32,
    /// Wild values and page tables.
    pub(crate) is_hostile: bool,
}

impl Default for NormCase {
    fn default() -> Self {
        Self {
            seed: 1,
            lengths: vec![300, 5],
            firsts: Some(vec![3, 0]),
            n_heads: 2,
            head_dim: 72,
            page_size: 16,
            is_hnd: true,
            n_tokens: 305,
            max_new: 140,
            norm: Norm::L1,
            value_scale: 1.0,
            is_hostile: false,
        }
    }
}

/// Values, and what their norms are.
#[derive(Debug, Clone)]
pub(crate) struct NormProblem<T> {
    pub(crate) case: NormCase,
    pub(crate) plan: NormsPlan,
    /// Nobody asks for keys.
    pub(crate) cache: Cache<T>,
}

impl NormCase {
    pub(crate) fn plan(&self) -> Result<NormsPlan, Error> {
        let sizes = [self.lengths.len() as u64, self.n_heads, self.head_dim, self.page_size];
        let longest = self.lengths.iter().max().copied().unwrap_or(0).min(1000);
        let table_stride = u64::from(longest).div_ceil(self.page_size) + 1;
        let layout = layout_of(sizes, table_stride, self.is_hnd)?;
        let (n_tokens, max_new, norm) = (self.n_tokens, self.max_new, self.norm);
        NormsPlan::new(NormsShape { layout, n_tokens, max_new, norm })
    }

    pub(crate) fn build<T: Value>(&self) -> NormProblem<T> {
        let plan = self.plan().unwrap();
        let layout = plan.shape().layout;
        let mut random = Random(self.seed);
        let values: Vec<T> =
            (0..layout.pool_len()).map(|_| T::make(&mut random, self.is_hostile)).collect();
        let mut page_table: Vec<i32> = (0..layout.table_len() as i32).rev().collect();
        if self.is_hostile {
            page_table[0] = -1;
            *page_table.last_mut().unwrap() = i32::MAX;
        }
        let (rows, lengths) = ([values.clone(), values], self.lengths.clone());
        let cache = Cache { layout, rows, page_table, lengths };
        NormProblem { case: self.clone(), plan, cache }
    }
}

impl<T: Value> NormProblem<T> {
    pub(crate) fn measure(&self, queue: &Queue) -> Result<Vec<u32>, Error> {
        let cache = self.cache.upload(queue)?;
        let firsts = upload_some(queue, self.case.firsts.as_ref())?;
        let cache = KvView { key_scale: 3.0, value_scale: self.case.value_scale, ..cache.view() };
        let mut norms = queue.upload(&vec![POISON; self.plan.norms_len() as usize])?;
        let firsts = firsts.as_ref().map(Buffer::view);
        measure_norms(queue, &self.plan, &cache, firsts, &mut norms.view_mut())?;
        Ok(bits(&queue.download(&norms.view())?))
    }

    pub(crate) fn expect(&self) -> Vec<u32> {
        let (shape, case) = (self.plan.shape(), &self.case);
        let mut norms = vec![POISON; self.plan.norms_len() as usize];
        for (b, h) in (0..case.lengths.len()).flat_map(|b| (0..case.n_heads).map(move |h| (b, h))) {
            let n = shape.layout.rows_of(case.lengths[b].into()).min(case.n_tokens);
            let first = case.firsts.as_ref().map_or(0, |firsts| firsts[b].into());
            for i in first..n {
                let norm = self.cache.row([b, h as usize], i, 1).map_or(0.0, |row| {
                    let row: Vec<f32> = row.iter().map(|x| x.to_f32()).collect();
                    norm_of_row(&row, case.norm, case.value_scale)
                });
                norms[((b as u64 * case.n_heads + h) * case.n_tokens + i) as usize] = norm;
            }
        }
        bits(&norms)
    }
}
