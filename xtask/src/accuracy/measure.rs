//! How far what a scheme gives back is from what it was given.

use rayon::prelude::*;

use super::data::{Head, Rows, Sample, Set};
use super::schemes::Scheme;
use super::softmax;

/// Errors of one head, or their mean over heads, layers and sequences.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Errors {
    /// Root mean square of the difference, over that of the elements.
    pub(crate) keys: f64,
    pub(crate) values: f64,
    /// Root mean square of the difference of logits.
    pub(crate) scores: f64,
    /// Root mean square of the difference of outputs over that of the outputs, with keys quantised.
    pub(crate) output_of_keys: f64,
    pub(crate) output_of_values: f64,
    pub(crate) output: f64,
}

impl Errors {
    fn fields(&mut self) -> [&mut f64; 6] {
        let Self { keys, values, scores, output_of_keys, output_of_values, output } = self;
        [keys, values, scores, output_of_keys, output_of_values, output]
    }
}

/// What is reported of a scheme on a set.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) bits: [f64; 2],
    pub(crate) mean: Errors,
    /// The largest `output` of all heads.
    pub(crate) worst: f64,
}

/// A set's rows, one a scheme, and the mean entropy of its queries in nats.
pub(crate) fn measure(set: &Set, schemes: &[Box<dyn Scheme>]) -> (Vec<Row>, f64) {
    let heads: Vec<(Vec<Errors>, f64)> =
        set.samples.iter().flat_map(|sample| measure_sample(sample, schemes)).collect();
    let n_heads = heads.len() as f64;
    let rows = schemes.iter().enumerate().map(|(i, scheme)| {
        let (mut mean, mut worst) = (Errors::default(), 0.0);
        for (errors, _) in &heads {
            let mut errors = errors[i];
            worst = f64::max(worst, errors.output);
            let pairs = mean.fields().into_iter().zip(errors.fields());
            pairs.for_each(|(mean, error)| *mean += *error / n_heads);
        }
        let bits = scheme.bits_per_element(set.samples[0].keys.shape());
        Row { name: scheme.name(), bits, mean, worst }
    });
    (rows.collect(), heads.iter().map(|(_, entropy)| entropy / n_heads).sum())
}

fn measure_sample(sample: &Sample, schemes: &[Box<dyn Scheme>]) -> Vec<(Vec<Errors>, f64)> {
    let n_heads = sample.queries.shape().n_heads;
    let quantised: Vec<(Rows, Rows)> = schemes
        .par_iter()
        .map(|scheme| {
            let keys = scheme.keys(&sample.keys, &sample.pools);
            let values = scheme.values(&sample.values, &sample.pools);
            (keys.with_heads(n_heads), values.with_heads(n_heads))
        })
        .collect();
    let (keys, values) = (sample.keys.with_heads(n_heads), sample.values.with_heads(n_heads));
    (0..n_heads)
        .into_par_iter()
        .map(|head| {
            let exact = Exact::of(&keys, &values, &sample.queries, head);
            let errors = quantised.iter().map(|(keys, values)| exact.errors(keys, values));
            (errors.collect(), exact.entropy)
        })
        .collect()
}

/// A head's logits, weights and outputs, by f64 from what no scheme touched.
struct Exact<'a> {
    keys: &'a Rows,
    values: &'a Rows,
    queries: &'a Rows,
    head: usize,
    columns: Head,
    attended: Vec<Attended>,
    entropy: f64,
}

struct Attended {
    logits: Vec<f64>,
    weights: Vec<f64>,
    output: Vec<f64>,
}

impl<'a> Exact<'a> {
    fn of(keys: &'a Rows, values: &'a Rows, queries: &'a Rows, head: usize) -> Self {
        let (key_columns, columns) = (Head::of(keys, head), Head::of(values, head));
        let n_queries = queries.shape().n_tokens;
        let mut entropy = 0.0;
        let attend = |query| {
            let logits = key_columns.logits(queries.row(query, head));
            let mut weights = logits.clone();
            entropy += softmax(&mut weights) / n_queries as f64;
            let output = columns.weighted(&weights).collect();
            Attended { logits, weights, output }
        };
        let attended = (0..n_queries).map(attend).collect();
        Self { keys, values, queries, head, columns, attended, entropy }
    }

    fn errors(&self, keys: &Rows, values: &Rows) -> Errors {
        let (near_keys, near_values) = (Head::of(keys, self.head), Head::of(values, self.head));
        let [mut scores, mut of_keys, mut of_values, mut of_both] = [Ratio::default(); 4];
        for (query, exact) in self.attended.iter().enumerate() {
            let mut weights = near_keys.logits(self.queries.row(query, self.head));
            scores.add(exact.logits.iter().copied(), weights.iter().copied());
            softmax(&mut weights);
            let output = || exact.output.iter().copied();
            of_keys.add(output(), self.columns.weighted(&weights));
            of_values.add(output(), near_values.weighted(&exact.weights));
            of_both.add(output(), near_values.weighted(&weights));
        }
        Errors {
            keys: self.relative(self.keys, keys),
            values: self.relative(self.values, values),
            scores: (scores.difference / scores.n as f64).sqrt(),
            output_of_keys: of_keys.root(),
            output_of_values: of_values.root(),
            output: of_both.root(),
        }
    }

    fn relative(&self, exact: &Rows, near: &Rows) -> f64 {
        let mut ratio = Ratio::default();
        for token in 0..exact.shape().n_tokens {
            let row = |rows: &Rows| rows.row(token, self.head).to_vec().into_iter().map(f64::from);
            ratio.add(row(exact), row(near));
        }
        ratio.root()
    }
}

/// Squares of differences and of what they are differences from.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ratio {
    difference: f64,
    whole: f64,
    n: usize,
}

impl Ratio {
    pub(crate) fn add(
        &mut self,
        exact: impl Iterator<Item = f64>,
        near: impl Iterator<Item = f64>,
    ) {
        for (exact, near) in exact.zip(near) {
            self.difference += (near - exact) * (near - exact);
            self.whole += exact * exact;
            self.n += 1;
        }
    }

    pub(crate) fn root(&self) -> f64 {
        (self.difference / self.whole).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::{Pools, Shape};
    use super::*;

    /// Adds to keys, multiplies values.
    struct Change(f32, f32);

    impl Scheme for Change {
        fn name(&self) -> String {
            "a change".to_owned()
        }

        fn bits_per_element(&self, _: Shape) -> [f64; 2] {
            [1.0, 2.0]
        }

        fn keys(&self, keys: &Rows, _: &Pools) -> Rows {
            let mut keys = keys.clone();
            keys.elements_mut().iter_mut().for_each(|x| *x += self.0);
            keys
        }

        fn values(&self, values: &Rows, _: &Pools) -> Rows {
            let mut values = values.clone();
            values.elements_mut().iter_mut().for_each(|x| *x *= self.1);
            values
        }
    }

    #[test]
    fn errors_are_what_a_change_makes_them() {
        let rows = |n_heads, d, step: usize| {
            let elements = (0..32).map(|i| (i * step % 11) as f32 - 5.0);
            Rows::new(n_heads, d, elements.collect())
        };
        let queries = rows(2, 2, 3);
        let sample = Sample::new(rows(1, 4, 5), rows(1, 4, 7), queries.clone(), &queries);
        let set = Set { name: String::new(), samples: vec![sample] };
        let errors = |change| measure(&set, &[Box::new(change) as Box<dyn Scheme>]).0.remove(0);

        let mut none = errors(Change(0.0, 1.0));
        assert_eq!((none.worst, none.mean.fields().map(|x| *x)), (0.0, [0.0; 6]));
        assert_eq!(none.bits, [1.0, 2.0]);

        // All logits of a query move together: its weights stay.
        let moved = errors(Change(1.0, 1.0)).mean;
        assert!(moved.scores > 0.1 && moved.keys > 0.1);
        assert!(moved.output_of_keys < 1e-12 && moved.output < 1e-12);

        let doubled = errors(Change(0.0, 2.0));
        let Errors { values, output_of_values, output, output_of_keys, .. } = doubled.mean;
        for error in [values, output_of_values, output, doubled.worst] {
            assert!((error - 1.0).abs() < 1e-12, "{error}");
        }
        assert_eq!(output_of_keys, 0.0);
    }
}
