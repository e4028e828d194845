//! Partial results of attention merged, by the kernel.

use std::marker::PhantomData;

use half::bf16;
use lacuna::attention::reference::{self, HostPartial};
use lacuna::attention::{MergeOutputs, MergePlan, MergeShape, Partial, merge_partials};
use lacuna::element::Real;
use lacuna::{Buffer, Queue};

use crate::house::case::{Budget, Case, Problem, Work, poison};

/// Parts of type `T` as outputs of type `O`.
#[derive(Clone, Copy)]
struct Merge<T, O> {
    n_parts: usize,
    n_tokens: u64,
    n_heads: u64,
    head_dim: u64,
    /// Whether all parts but the first have nothing for every second token.
    is_masked: bool,
    is_small: bool,
    types: PhantomData<(T, O)>,
}

impl<T: Real, O: Real> Merge<T, O> {
    fn plan(&self, n_more: u64) -> MergePlan {
        let shape = MergeShape::of(self.n_tokens + n_more, self.n_heads, self.head_dim);
        MergePlan::new(shape, &vec![shape.part(); self.n_parts]).expect("a shape that is supported")
    }

    /// Tokens from `first` on, which are all tokens' whose numbers they are.
    fn parts(&self, first: u64, n_tokens: u64) -> Vec<Part<T>> {
        let numbers = |seed: u64, n: u64| {
            let number = move |i: u64| {
                let mixed = (i ^ seed << 48).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                (mixed.rotate_left(31).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 40) as f32
                    / (1_u32 << 23) as f32
                    - 1.0
            };
            (first * n..(first + n_tokens) * n).map(number)
        };
        let part = |i: u64| Part {
            outputs: numbers(2 * i, self.n_heads * self.head_dim).map(T::from_f32).collect(),
            log_sums: numbers(2 * i + 1, self.n_heads).map(|x| 8.0 * x).collect(),
            mask: (self.is_masked && i != 0)
                .then(|| (first..first + n_tokens).map(|token| (token % 2) as u32).collect()),
        };
        (0..self.n_parts as u64).map(part).collect()
    }
}

struct Part<T> {
    outputs: Vec<T>,
    log_sums: Vec<f32>,
    mask: Option<Vec<u32>>,
}

impl<T: Real, O: Real> Case for Merge<T, O> {
    fn kernel(&self) -> &'static str {
        "attention/merge_partials"
    }

    fn shape(&self) -> String {
        let Self { n_parts, n_tokens, n_heads, head_dim, .. } = self;
        let masked = if self.is_masked { ", half masked" } else { "" };
        let (part, output) = (T::NAME, O::NAME);
        format!(
            "{n_parts} parts of {n_tokens} tokens, {n_heads} heads of {head_dim}, {part} to {output}{masked}"
        )
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        // Four of a sector's log-sums are a warp's, and the other four its neighbour's.
        let bytes = if self.is_masked { 1.04 } else { 1.02 };
        Budget { bytes, sectors_per_request: 16.0, conflict_ways: 0.0, barriers: 0.0 }
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let plan = self.plan(0);
        let parts = self.parts(0, self.n_tokens);
        let hosts: Vec<_> = parts
            .iter()
            .map(|part| HostPartial {
                outputs: &part.outputs,
                log_sums: &part.log_sums,
                mask: part.mask.as_deref(),
            })
            .collect();
        let mut outputs = vec![O::from_f32(0.0); plan.outputs_len() as usize];
        let mut log_sums = vec![0.0; plan.log_sums_len() as usize];
        reference::merge_partials(&plan, &hosts, &mut outputs, &mut log_sums);
        let expected = [bytemuck::cast_slice::<O, u8>(&outputs), bytemuck::cast_slice(&log_sums)];
        Box::new(Parts { case: *self, expected: expected.concat() })
    }
}

struct Parts<T, O> {
    case: Merge<T, O>,
    expected: Vec<u8>,
}

impl<T: Real, O: Real> Problem for Parts<T, O> {
    fn least_bytes(&self) -> u64 {
        let Merge { n_parts, n_tokens, n_heads, head_dim, is_masked, .. } = self.case;
        let least = self.case.plan(0).least_bytes(size_of::<T>() as u64, size_of::<O>() as u64);
        if !is_masked {
            return least;
        }
        // Of what is masked neither outputs nor log-sums are read, but the masks.
        let n_masked = (n_parts as u64 - 1) * n_tokens.div_ceil(2);
        let row_bytes = n_heads * (head_dim * size_of::<T>() as u64 + 4);
        least - n_masked * row_bytes + 4 * (n_parts as u64 - 1) * n_tokens
    }

    fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::<T, O>::new(&self.case, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let last = Launch::<T, O>::new(&self.case, queue, 3)?;
        Ok(vec![("after three tokens more".to_owned(), Box::new(last))])
    }
}

struct Placed<T> {
    outputs: Buffer<T>,
    log_sums: Buffer<f32>,
    mask: Option<Buffer<u32>>,
}

/// A launch whose last tokens are looked at.
struct Launch<T, O> {
    plan: MergePlan,
    parts: Vec<Placed<T>>,
    outputs: Buffer<O>,
    log_sums: Buffer<f32>,
    n_before: u64,
}

impl<T: Real, O: Real> Launch<T, O> {
    fn new(case: &Merge<T, O>, queue: &Queue, n_before: u64) -> lacuna::Result<Self> {
        let plan = case.plan(n_before);
        let others = case.parts(1 << 30, n_before);
        let parts = others.iter().zip(case.parts(0, case.n_tokens));
        let parts: lacuna::Result<Vec<_>> = parts
            .map(|(before, part)| {
                let masks = before.mask.as_ref().zip(part.mask.as_ref());
                Ok(Placed {
                    outputs: queue.upload(&[&before.outputs[..], &part.outputs].concat())?,
                    log_sums: queue.upload(&[&before.log_sums[..], &part.log_sums].concat())?,
                    mask: masks.map(|(a, b)| queue.upload(&[&a[..], b].concat())).transpose()?,
                })
            })
            .collect();
        Ok(Self {
            plan,
            parts: parts?,
            outputs: queue.alloc(plan.outputs_len() as usize)?,
            log_sums: queue.alloc(plan.log_sums_len() as usize)?,
            n_before,
        })
    }
}

impl<T: Real, O: Real> Work for Launch<T, O> {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let parts: Vec<_> = self
            .parts
            .iter()
            .map(|part| Partial {
                outputs: part.outputs.view(),
                log_sums: part.log_sums.view(),
                mask: part.mask.as_ref().map(Buffer::view),
            })
            .collect();
        let mut outputs = MergeOutputs {
            outputs: self.outputs.view_mut(),
            log_sums: Some(self.log_sums.view_mut()),
        };
        merge_partials(queue, &self.plan, &parts, &mut outputs)
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.outputs)?;
        poison(queue, &mut self.log_sums)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let shape = self.plan.shape();
        let n_before = self.n_before * shape.n_heads;
        let outputs = (n_before * shape.head_dim) as usize..self.outputs.len();
        let outputs = queue.download(&self.outputs.view().slice(outputs)?)?;
        let log_sums = n_before as usize..self.log_sums.len();
        let log_sums = queue.download(&self.log_sums.view().slice(log_sums)?)?;
        Ok([bytemuck::cast_slice::<O, u8>(&outputs), bytemuck::cast_slice(&log_sums)].concat())
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    fn case<T: Real, O: Real>(
        n_parts: usize,
        [n_tokens, n_heads, head_dim]: [u64; 3],
        is_masked: bool,
        is_small: bool,
    ) -> Box<dyn Case> {
        let types = PhantomData::<(T, O)>;
        Box::new(Merge { n_parts, n_tokens, n_heads, head_dim, is_masked, is_small, types })
    }
    vec![
        // Hits and misses; a cascade; ranks and a CPU.
        case::<bf16, bf16>(2, [16, 8, 128], true, true),
        case::<bf16, bf16>(3, [8, 8, 192], false, true),
        case::<f32, bf16>(8, [8, 8, 128], false, true),
        case::<f32, f32>(2, [8, 8, 64], false, true),
        case::<bf16, bf16>(2, [64, 32, 128], true, false),
        case::<bf16, bf16>(2, [8192, 32, 128], false, false),
        case::<f32, bf16>(8, [64, 32, 128], false, false),
        case::<f32, bf16>(4, [4096, 32, 128], false, false),
    ]
}
