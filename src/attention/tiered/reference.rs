//! What `attend_tiered` must do, written for reading: steps, chains, roundings and their order are the kernel's.

use super::plan::{STEP, TieredPlan, WARPS, split_steps};
use crate::attention::attend::reference::Attended;
use crate::attention::state::{Compensated, Rule, State, TILE, Token, ceiling, scale_of, weigh};
use crate::element::Half;
use crate::number;
use crate::quant::reference::Channels;
use crate::quant::{Page, Part, Tier};

/// A launch on the host.
#[derive(Debug, Clone, Copy)]
pub struct TieredAttended<'a, T> {
    /// Its sizes.
    pub plan: &'a TieredPlan,
    /// Queries, segments and sinks; its plan is `plan.attend()`.
    pub attended: Attended<'a, T>,
    /// The tiers' pools, by tag.
    pub pools: [&'a [u8]; 4],
    /// `[batch, n_heads, n_pages]`, of keys and of values.
    pub entries: [&'a [u32]; 2],
    /// `[batch, n_lists]`: slots that hold tokens.
    pub counts: Option<&'a [u32]>,
    /// `[batch, n_heads, n_spans, head_dim]`, of keys and of values.
    pub channels: [Channels<'a>; 2],
}

/// 64 positions.
#[derive(Debug, Clone)]
enum Step<'a, T: Half> {
    /// Slots of two pages, those before `n`, none where either is none.
    Pages { idx: usize, of: Option<[Page; 2]>, n: usize },
    /// Rows of segments.
    Rows(Vec<Option<Token<'a, T>>>),
}

/// A query as it is multiplied with codes of a span of pages.
struct Folded {
    codes: Vec<i32>,
    unit: f32,
    sum: f32,
    offset: f32,
}

impl<'a, T: Half> TieredAttended<'a, T> {
    /// A query head's outputs, its log-sum-exp, and its logits at all positions.
    pub fn query(&self, b: usize, i: usize, q: usize) -> (Vec<f32>, f32, Vec<f32>) {
        let shape = self.plan.attend().shape();
        let token = b * shape.n_queries as usize + i;
        let d = shape.head_dim as usize;
        let query = &self.attended.queries[token * shape.query_stride as usize + q * d..][..d];
        let head = q / self.plan.attend().group() as usize;
        let steps = self.steps(b, head, i);
        let spans = self.spans(b, head);
        let of_warp = |split: &[(usize, Step<'a, T>)], warp: usize| {
            let mut sums = Sums::new(self.attended.rule(), query, &spans);
            let steps = split.iter().skip(warp).step_by(WARPS as usize);
            let logits: Vec<_> = steps.map(|(first, step)| (*first, sums.add(step))).collect();
            (sums.finish(), logits)
        };
        let mut logits = vec![f32::NEG_INFINITY; self.plan.n_positions() as usize];
        let mut states = Vec::new();
        for split in steps.chunks(split_steps(steps.len())) {
            let warps: Vec<_> = (0..WARPS as usize).map(|warp| of_warp(split, warp)).collect();
            for (first, step) in warps.iter().flat_map(|(_, logits)| logits) {
                logits[*first..][..step.len()].copy_from_slice(step);
            }
            states.push(State::merge(d, warps.into_iter().map(|(state, _)| state)));
        }
        let sink = self.attended.sinks.map(|sinks| sinks[q]);
        let (outputs, log_sum) =
            State::merge(d, states.into_iter()).finish(sink, shape.logits.base);
        (outputs, log_sum, logits)
    }

    /// What stands at positions, and the first of each step's: slots of pages, then rows of segments.
    fn steps(&self, b: usize, head: usize, i: usize) -> Vec<(usize, Step<'a, T>)> {
        let shape = self.plan.pages().shape();
        let n_lists = shape.lists.per_request(&shape.layout) as usize;
        let list = if n_lists == 1 { b } else { b * n_lists + head };
        let n_pages = shape.n_pages as usize;
        let step = STEP as usize;
        let n_slots = self.counts.map_or(u32::MAX, |counts| counts[list]) as usize;
        let n_slots = n_slots.min(step * n_pages);
        let first = (b * self.plan.attend().n_heads() as usize + head) * n_pages;
        let pages = (0..n_slots.div_ceil(step)).map(|p| {
            let page = |part| self.page(part, self.entries[part as usize][first + p]);
            let of = page(Part::Keys).zip(page(Part::Values)).map(|(keys, values)| [keys, values]);
            let idx = p / shape.span_pages as usize;
            (step * p, Step::Pages { idx, of, n: step.min(n_slots - step * p) })
        });
        let tokens = self.attended.tokens(b, head, i);
        let rows = tokens.chunks(step).enumerate();
        let rows = rows.map(|(s, rows)| (step * (n_pages + s), Step::Rows(rows.to_vec())));
        pages.chain(rows).collect()
    }

    fn page(&self, part: Part, entry: u32) -> Option<Page> {
        let tier = Tier::of_entry(entry);
        let (number, tag) = (u64::from(entry & 0x3FFF_FFFF), tier.tag() as usize);
        if self.pools[tag].is_empty() || number >= self.plan.pages().shape().n_pool_pages[tag] {
            return None;
        }
        let shape = self.plan.pages().page(part);
        let n_bytes = shape.page_bytes(tier);
        let bytes = self.pools[tag][number as usize * n_bytes..][..n_bytes].to_vec();
        Some(Page::from_bytes(shape, tier, bytes).expect("as many bytes as a page has"))
    }

    /// What channels of each span are relative to, of keys and of values.
    fn spans(&self, b: usize, head: usize) -> Vec<[Channels<'a>; 2]> {
        let pages = self.plan.pages();
        let d = self.plan.attend().shape().head_dim as usize;
        let n_spans = pages.n_spans() as usize;
        let first = (b * self.plan.attend().n_heads() as usize + head) * n_spans;
        let of_span = |span: usize| {
            self.channels.map(|all| {
                let own = |of: Option<&'a [f32]>| of.map(|of| &of[(first + span) * d..][..d]);
                Channels { scales: own(all.scales), offsets: own(all.offsets) }
            })
        };
        (0..n_spans).map(of_span).collect()
    }
}

/// Numbers as integers of 15 bits, sign included, times a power of two: the unit, and what numbers are multiplied by. Of what is not
/// finite the unit is NaN, and of what is below 2^-113 it is 0.
fn fix(numbers: &[f32]) -> (f32, f32) {
    let greatest = numbers.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0);
    match greatest >> 23 {
        255 => (f32::NAN, 0.0),
        exponent @ 14.. => {
            let [unit, inverse] = [exponent - 13, 267 - exponent].map(|e| f32::from_bits(e << 23));
            (unit, inverse)
        }
        _ => (0.0, 0.0),
    }
}

fn to_fixed(numbers: &[f32], inverse: f32) -> Vec<i32> {
    numbers.iter().map(|x| (x * inverse).round_ties_even() as i32).collect()
}

/// Neighbours first.
fn add_tree(lanes: [f32; 8]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

/// A warp's sums.
struct Sums<'a, T> {
    rule: Rule,
    query: &'a [T],
    spans: &'a [[Channels<'a>; 2]],
    greatest: i32,
    masses: [Compensated; 8],
    excess: [f32; 8],
    output: Vec<f32>,
}

impl<'a, T: Half> Sums<'a, T> {
    fn new(rule: Rule, query: &'a [T], spans: &'a [[Channels<'a>; 2]]) -> Self {
        let greatest = State::empty(0).greatest;
        let (masses, output) = ([Compensated::default(); 8], vec![0.0; query.len()]);
        Self { rule, query, spans, greatest, masses, excess: [0.0; 8], output }
    }

    /// Adds a step, whose logits are returned.
    fn add(&mut self, step: &Step<'_, T>) -> Vec<f32> {
        let absent = f32::NEG_INFINITY;
        let step_len = STEP as usize;
        let logits = match step {
            Step::Pages { of: None, .. } => return vec![absent; step_len],
            Step::Pages { idx, of: Some([keys, _]), n } => {
                let mut logits = self.score(keys, &self.spans[*idx][0]);
                logits[*n..].fill(absent);
                logits
            }
            Step::Rows(rows) => {
                let logit = |row: &Option<Token<'_, T>>| match row {
                    Some(row) if row.is_seen => self.rule.logit(self.query, &row.key, row.bias),
                    _ => absent,
                };
                rows.iter().map(logit).collect()
            }
        };
        let greatest = logits.iter().copied().map(ceiling).fold(self.greatest, i32::max);
        self.relate_to(greatest);
        let mut weights: Vec<f32> = logits.iter().map(|logit| weigh(*logit, greatest)).collect();
        weights.resize(step_len, 0.0);
        let mut masses = [0.0; 8];
        for (lane, mass) in masses.iter_mut().enumerate() {
            let pairs =
                (0..4).map(|strip| weights[16 * strip + lane] + weights[16 * strip + 8 + lane]);
            *mass = pairs.reduce(|mass, pair| mass + pair).expect("four");
            self.masses[lane].add(*mass);
        }
        match step {
            Step::Pages { idx, of: Some([_, values]), n } if values.tier().is_coded() => {
                self.add_codes(values, &self.spans[*idx][1], &weights, *n, add_tree(masses));
            }
            Step::Pages { of, n, .. } => {
                let values = &of.as_ref().expect("there")[1];
                let rows: Vec<Vec<T>> = (0..*n).map(|token| values.numbers(token)).collect();
                self.add_numbers(&weights, |token, c| match rows.get(token) {
                    Some(row) => row[c],
                    None => T::from_f32(0.0),
                });
            }
            Step::Rows(rows) => self.add_numbers(&weights, |token, c| match rows.get(token) {
                Some(Some(row)) => row.value[c],
                _ => T::from_f32(0.0),
            }),
        }
        logits
    }

    fn relate_to(&mut self, greatest: i32) {
        let scale = scale_of(self.greatest, greatest);
        self.greatest = greatest;
        self.masses.iter_mut().for_each(|mass| mass.scale(scale));
        self.excess.iter_mut().chain(&mut self.output).for_each(|sum| *sum *= scale);
    }

    /// Logits of a page's keys.
    fn score(&self, keys: &Page, channels: &Channels<'_>) -> Vec<f32> {
        let tokens = 0..STEP as usize;
        if !keys.tier().is_coded() {
            let logit = |token| self.rule.logit(self.query, &keys.numbers::<T>(token), 0.0);
            return tokens.map(logit).collect();
        }
        let folded = self.fold(channels);
        let logit = |token| {
            let (codes, step, least) = keys.affine(token);
            let products = codes.iter().zip(&folded.codes);
            let sum: i32 = products.map(|(code, query)| i32::from(*code) * query).sum();
            let code = step.mul_add(sum as f32, least * folded.sum);
            self.rule.logit_of(code.mul_add(folded.unit, folded.offset), 0.0)
        };
        tokens.map(logit).collect()
    }

    fn fold(&self, channels: &Channels<'_>) -> Folded {
        let query: Vec<f32> = self.query.iter().map(|x| x.to_f32()).collect();
        let offset = channels.offsets.map_or(0.0, |offsets| number::dot(&query, offsets));
        let scaled: Vec<f32> = match channels.scales {
            Some(scales) => query.iter().zip(scales).map(|(x, scale)| x * scale).collect(),
            None => query,
        };
        let (unit, inverse) = fix(&scaled);
        let codes = to_fixed(&scaled, inverse);
        Folded { unit, sum: codes.iter().sum::<i32>() as f32, codes, offset }
    }

    fn add_codes(
        &mut self,
        values: &Page,
        channels: &Channels<'_>,
        weights: &[f32],
        n: usize,
        mass: f32,
    ) {
        let rows: Vec<(Vec<u8>, f32, f32)> =
            (0..weights.len()).map(|token| values.affine(token)).collect();
        let scaled: Vec<f32> = rows
            .iter()
            .zip(weights)
            .enumerate()
            .map(|(token, ((_, step, _), weight))| weight * if token < n { *step } else { 0.0 })
            .collect();
        let (unit, inverse) = fix(&scaled);
        let codes = to_fixed(&scaled, inverse);
        // What rounding takes from weights is multiplied by codes about 0.
        let middle = (1_u32 << (values.tier().bits() - 1)) as f32;
        let mut least = [0.0_f32; 8];
        for (token, (_, step, own)) in rows.iter().enumerate().take(n) {
            let lane = &mut least[token % 8];
            *lane = weights[token].mul_add(middle.mul_add(*step, *own), *lane);
        }
        let total: i32 = codes.iter().sum();
        let least = (-middle * unit).mul_add(total as f32, add_tree(least));
        for (c, output) in self.output.iter_mut().enumerate() {
            let products = rows.iter().zip(&codes);
            let sum: i32 = products.map(|((row, _, _), code)| i32::from(row[c]) * code).sum();
            let sum = (sum as f32).mul_add(unit, least);
            *output = sum.mul_add(channels.scales.map_or(1.0, |scales| scales[c]), *output);
            if let Some(offsets) = channels.offsets {
                *output = offsets[c].mul_add(mass, *output);
            }
        }
    }

    fn add_numbers(&mut self, weights: &[f32], number: impl Fn(usize, usize) -> T) {
        let rounded: Vec<T> = weights.iter().map(|weight| T::from_f32(*weight)).collect();
        for (token, (rounded, weight)) in rounded.iter().zip(weights).enumerate() {
            self.excess[token % 8] += rounded.to_f32() - weight;
        }
        let rounded: Vec<u16> = rounded.iter().map(|weight| weight.bits()).collect();
        for (c, output) in self.output.iter_mut().enumerate() {
            let column: Vec<u16> =
                (0..rounded.len()).map(|token| number(token, c).bits()).collect();
            for (weights, column) in rounded.chunks(TILE).zip(column.chunks(TILE)) {
                let answer = self.rule.model.dot_add(T::OPERAND, weights, column, output.to_bits());
                *output = f32::from_bits(answer.bits);
            }
        }
    }

    fn finish(self) -> State {
        let mass = add_tree(self.masses.map(|mass| mass.sum + mass.lost));
        let sum = mass + add_tree(self.excess);
        State { greatest: self.greatest, sum, mass, output: self.output }
    }
}
