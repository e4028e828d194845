//! What attention sums, written for reading: the tiles, chains and roundings of every kernel of the room.

use std::borrow::Cow;

use super::{LogBase, Logits};
use crate::element::Half;
use crate::mma::Model;
use crate::number;

/// Positions that are multiplied at once.
pub(super) const TILE: usize = 16;
/// Of no scores; and what logits, to base 2, count as beyond it.
const NO_SCORE: i32 = -(1 << 30);
const MOST_LOG2: f32 = 4_194_304.0;

/// What stands at a position.
#[derive(Debug, Clone)]
pub struct Token<'a, T: Half> {
    /// Its key.
    pub key: Cow<'a, [T]>,
    /// Its value.
    pub value: &'a [T],
    /// What is added to its logits.
    pub bias: f32,
    /// Whether the query sees it.
    pub is_seen: bool,
}

/// What makes logits of products, and who makes products.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Whose tensor cores.
    pub model: Model,
    /// log2(e) times the scale.
    pub log2_scale: f32,
    /// What a product is multiplied by to be twice a capped logit, and what its tangent is; or zeros.
    pub cap: [f32; 2],
}

/// Sums over some of a row's positions, relative to `2^greatest`.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// No less than any logit to base 2.
    pub greatest: i32,
    /// Of weights, as they are rounded: outputs are divided by it.
    pub sum: f32,
    /// Of weights before, of which log-sums are made.
    pub mass: f32,
    /// Of weights times values.
    pub output: Vec<f32>,
}

impl State {
    /// Of nothing.
    pub fn empty(head_dim: usize) -> Self {
        Self { greatest: NO_SCORE, sum: 0.0, mass: 0.0, output: vec![0.0; head_dim] }
    }

    /// A query's over stages, of one or several tiles of 16 positions, one after the other.
    pub fn of_stages<'a, T: Half + 'a>(
        rule: &Rule,
        query: &[T],
        n_tiles: usize,
        stages: impl Iterator<Item = &'a [Option<Token<'a, T>>]>,
    ) -> Self {
        let mut state = Self::empty(query.len());
        let mut masses = Masses::default();
        stages.for_each(|stage| state.add(rule, query, n_tiles, stage, &mut masses));
        let [first, second, third, fourth] = masses.0.map(|mass| mass.sum + mass.lost);
        state.mass = (first + second) + (third + fourth);
        state
    }

    /// Adds a stage. Of one tile the products continue sums; those of several are summed, and then added.
    fn add<T: Half>(
        &mut self,
        rule: &Rule,
        query: &[T],
        n_tiles: usize,
        stage: &[Option<Token<'_, T>>],
        masses: &mut Masses,
    ) {
        let mut logits = vec![f32::NEG_INFINITY; n_tiles * TILE];
        for (logit, token) in logits.iter_mut().zip(stage) {
            if let Some(token) = token.as_ref().filter(|token| token.is_seen) {
                *logit = rule.logit(query, &token.key, token.bias);
            }
        }
        let greatest = logits.iter().copied().map(ceiling).fold(self.greatest, i32::max);
        masses.scale(scale_of(self.greatest, greatest));
        self.relate_to(greatest);
        let weights: Vec<f32> = logits.iter().map(|logit| weigh(*logit, greatest)).collect();
        weights.chunks(TILE).for_each(|tile| masses.add(tile));
        let weights: Vec<u16> = weights.iter().map(|weight| T::from_f32(*weight).bits()).collect();
        let add_products = |column: &[u16], sum: &mut f32| {
            let products = |sum: f32| {
                let tiles = weights.chunks(TILE).zip(column.chunks(TILE));
                tiles.fold(sum, |sum, (weights, column)| {
                    let answer = rule.model.dot_add(T::OPERAND, weights, column, sum.to_bits());
                    f32::from_bits(answer.bits)
                })
            };
            *sum = if n_tiles == 1 { products(*sum) } else { *sum + products(0.0) };
        };
        let mut column = vec![T::from_f32(1.0).bits(); n_tiles * TILE];
        add_products(&column, &mut self.sum);
        column.fill(0);
        for (c, output) in self.output.iter_mut().enumerate() {
            for (element, token) in column.iter_mut().zip(stage) {
                *element = token.as_ref().map_or(0, |token| token.value[c].bits());
            }
            add_products(&column, output);
        }
    }

    fn relate_to(&mut self, greatest: i32) {
        let scale = scale_of(self.greatest, greatest);
        self.greatest = greatest;
        self.sum *= scale;
        self.output.iter_mut().for_each(|output| *output *= scale);
    }

    /// The states of a row's parts as one, in their order.
    pub fn merge(head_dim: usize, parts: impl Iterator<Item = Self>) -> Self {
        let parts: Vec<Self> = parts.collect();
        let mut all = Self::empty(head_dim);
        all.greatest = parts.iter().map(|part| part.greatest).fold(NO_SCORE, i32::max);
        for part in &parts {
            let scale = scale_of(part.greatest, all.greatest);
            all.sum = part.sum.mul_add(scale, all.sum);
            all.mass = part.mass.mul_add(scale, all.mass);
            for (sum, output) in all.output.iter_mut().zip(&part.output) {
                *sum = output.mul_add(scale, *sum);
            }
        }
        all
    }

    /// Outputs, and the log-sum-exp, with the sink's logit if there is one.
    pub fn finish(mut self, sink: Option<f32>, base: LogBase) -> (Vec<f32>, f32) {
        if let Some(sink) = sink {
            let sink = clamp(sink * std::f32::consts::LOG2_E);
            let greatest = self.greatest.max(ceiling(sink));
            let scale = scale_of(self.greatest, greatest);
            self.greatest = greatest;
            self.sum = self.sum.mul_add(scale, weigh(sink, greatest));
            self.mass = self.mass.mul_add(scale, weigh(sink, greatest));
            self.output.iter_mut().for_each(|output| *output *= scale);
        }
        if self.sum == 0.0 {
            return (vec![0.0; self.output.len()], f32::NEG_INFINITY);
        }
        let reciprocal = 1.0 / self.sum;
        let outputs = self.output.into_iter().map(|output| output * reciprocal).collect();
        let log2 = self.greatest as f32 + number::log2(self.mass);
        (outputs, if self.sum.is_nan() { f32::NAN } else { log2 * base.unit() })
    }
}

/// Of weights, four sums by their positions, as a warp's lanes have them.
#[derive(Default)]
struct Masses([Compensated; 4]);

impl Masses {
    /// Of a tile.
    fn add(&mut self, weights: &[f32]) {
        for (lane, mass) in self.0.iter_mut().enumerate() {
            let pair = |first: usize| weights[first] + weights[first + 1];
            mass.add(pair(2 * lane) + pair(8 + 2 * lane));
        }
    }

    fn scale(&mut self, factor: f32) {
        self.0.iter_mut().for_each(|mass| mass.scale(factor));
    }
}

/// A sum of many terms, and the sum of what rounding it lost. A term of 0 changes neither, so that positions that a query does not
/// see are nothing to it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Compensated {
    pub(super) sum: f32,
    pub(super) lost: f32,
}

impl Compensated {
    pub(super) fn scale(&mut self, factor: f32) {
        self.sum *= factor;
        self.lost *= factor;
    }

    pub(super) fn add(&mut self, term: f32) {
        let next = self.sum + term;
        self.lost += term - (next - self.sum);
        self.sum = next;
    }
}

impl Rule {
    /// Of a model and what a plan says.
    pub fn new(model: Model, logits: &Logits) -> Self {
        Self { model, log2_scale: logits.log2_scale(), cap: logits.cap() }
    }

    /// To base 2.
    pub(super) fn logit<T: Half>(&self, query: &[T], key: &[T], bias: f32) -> f32 {
        let bits = |row: &[T]| -> Vec<u16> { row.iter().map(|element| element.bits()).collect() };
        let product = self.model.dot_add(T::OPERAND, &bits(query), &bits(key), 0);
        self.logit_of(f32::from_bits(product.bits), bias)
    }

    /// Of a product.
    pub(super) fn logit_of(&self, product: f32, bias: f32) -> f32 {
        let [cap_scale, cap_log2] = self.cap;
        let logit = if cap_scale == 0.0 {
            product * self.log2_scale
        } else {
            let twice = product * cap_scale;
            let e = number::exp2(-twice.abs());
            let tanh = (1.0 - e) / (1.0 + e);
            if twice.is_nan() { twice } else { tanh.copysign(twice) * cap_log2 }
        };
        clamp(bias.mul_add(std::f32::consts::LOG2_E, logit))
    }
}

fn clamp(logit: f32) -> f32 {
    if logit == f32::NEG_INFINITY || logit.is_nan() {
        return logit;
    }
    logit.clamp(-MOST_LOG2, MOST_LOG2)
}

/// The least integer not below a logit; of none, and of NaN, less than any.
pub(super) fn ceiling(logit: f32) -> i32 {
    if logit == f32::NEG_INFINITY || logit.is_nan() { NO_SCORE } else { logit.ceil() as i32 }
}

pub(super) fn weigh(logit: f32, greatest: i32) -> f32 {
    if logit.is_nan() { logit } else { number::exp2(logit - greatest as f32) }
}

/// `2^(from - to)`, of what is not above 0.
pub(super) fn scale_of(from: i32, to: i32) -> f32 {
    let power = from - to;
    if power < -126 { 0.0 } else { f32::from_bits(((127 + power) as u32) << 23) }
}
