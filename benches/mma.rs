//! Tensor cores asked for single products: checked, and not timed, since it is no way to multiply
//! matrices; and the speed of their model.

mod house;
mod peers;

use std::process::ExitCode;

use criterion::Criterion;
use lacuna::mma::{self, Factor, Instruction, Model, Operand};
use lacuna::{Buffer, Queue};

use house::case::{Budget, Case, Problem, Work, poison};

const N_PRODUCTS: usize = 64;

fn cpu() {
    let mut criterion = Criterion::default().configure_from_args();
    let [a, b] = [1, 2].map(|seed| integers(seed, 16).map(to_bf16).collect::<Vec<_>>());
    criterion.bench_function("mma/dot_add/bf16/16", |bench| {
        bench.iter(|| Model::HOPPER.dot_add(Operand::Bf16, &a, &b, 0));
    });
    criterion.final_summary();
}

/// Integers so small that every model, and every order, gives their exact sums.
fn integers(seed: u64, n: usize) -> impl Iterator<Item = i32> {
    let mut state = seed;
    (0..n).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as i32 % 100 - 50
    })
}

fn to_bf16(value: i32) -> u16 {
    half::bf16::from_f32(value as f32).to_bits()
}

/// One instruction on one type of element.
struct Products {
    instruction: Instruction,
    factor: Factor,
    shape: String,
}

struct Matrices {
    instruction: Instruction,
    factor: Factor,
    a: Vec<u8>,
    b: Vec<u8>,
    c: Vec<u32>,
    d: Vec<u8>,
}

impl Case for Products {
    fn kernel(&self) -> &'static str {
        match self.instruction {
            Instruction::Wgmma => "mma/wgmma_products",
            _ => "mma/mma_products",
        }
    }

    fn shape(&self) -> String {
        self.shape.clone()
    }

    fn is_small(&self) -> bool {
        true
    }

    fn budget(&self) -> Budget {
        // `wgmma` takes its fragments of `a` from global memory: half a sector at a time.
        let (bytes, sectors_per_request, barriers) = match self.instruction {
            Instruction::Wgmma => (1.33, 8.0, 1.0),
            _ => (1.0, 9.4, 0.0),
        };
        Budget { bytes, sectors_per_request, conflict_ways: 1.5, barriers }
    }

    fn is_timed(&self) -> bool {
        false
    }

    fn unsupported(&self, queue: &Queue) -> Option<String> {
        mma::check_supported(queue, self.instruction, self.factor).err().map(|e| e.to_string())
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let Self { instruction, factor, .. } = *self;
        let n_rows = N_PRODUCTS * instruction.n_rows();
        let n_columns = N_PRODUCTS * 8;
        let k = factor.n_products();
        let [a, b] = [(1, n_rows), (2, n_columns)]
            .map(|(seed, n)| -> Vec<_> { integers(seed, n * k).collect() });
        let c: Vec<_> = integers(3, n_rows * 8).collect();
        let is_float = matches!(factor, Factor::Float(_));
        let sums = c.iter().enumerate().map(|(i, c)| {
            let (row, column) = (i / 8, i / 8 / instruction.n_rows() * 8 + i % 8);
            let pairs = a[row * k..][..k].iter().zip(&b[column * k..][..k]);
            pairs.fold(*c, |sum, (a, b)| sum + a * b)
        });
        let bits = |value: i32| if is_float { (value as f32).to_bits() } else { value as u32 };
        let bytes = |values: &[i32]| -> Vec<u8> {
            if is_float {
                values.iter().flat_map(|value| to_bf16(*value).to_le_bytes()).collect()
            } else {
                values.iter().map(|value| *value as i8 as u8).collect()
            }
        };
        Box::new(Matrices {
            instruction,
            factor,
            a: bytes(&a),
            b: bytes(&b),
            d: sums.flat_map(|sum| bits(sum).to_le_bytes()).collect(),
            c: c.iter().map(|value| bits(*value)).collect(),
        })
    }
}

impl Problem for Matrices {
    fn least_bytes(&self) -> u64 {
        (self.a.len() + self.b.len() + 2 * self.d.len()) as u64
    }

    fn expected(&self) -> &[u8] {
        &self.d
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, queue, 1)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let last = Launch::new(self, queue, 3)?;
        Ok(vec![("as the last of three times as many".to_owned(), Box::new(last))])
    }
}

/// All products some times over, of which the last time is looked at.
struct Launch {
    instruction: Instruction,
    factor: Factor,
    a: Buffer<u8>,
    b: Buffer<u8>,
    c: Buffer<u32>,
    d: Buffer<u32>,
    n_results: usize,
}

impl Launch {
    fn new(matrices: &Matrices, queue: &Queue, n_times: usize) -> lacuna::Result<Self> {
        let n_results = matrices.c.len();
        Ok(Self {
            instruction: matrices.instruction,
            factor: matrices.factor,
            a: queue.upload(&matrices.a.repeat(n_times))?,
            b: queue.upload(&matrices.b.repeat(n_times))?,
            c: queue.upload(&matrices.c.repeat(n_times))?,
            d: queue.alloc(n_results * n_times)?,
            n_results,
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let Self { instruction, factor, a, b, c, d, .. } = self;
        let (a, b, c) = (a.view(), b.view(), c.view());
        mma::multiply(queue, *instruction, *factor, &a, &b, &c, &mut d.view_mut())
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.d)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let view = self.d.view().slice(self.d.len() - self.n_results..self.d.len())?;
        Ok(bytemuck::cast_slice(&queue.download(&view)?).to_vec())
    }
}

fn main() -> ExitCode {
    let factors = [(Factor::Float(Operand::Bf16), "bf16"), (Factor::I8, "i8")];
    let cases = [Instruction::Mma, Instruction::Wgmma].into_iter().flat_map(|instruction| {
        factors.map(|(factor, name)| {
            let shape = format!("{N_PRODUCTS} products of {name}");
            Box::new(Products { instruction, factor, shape }) as _
        })
    });
    house::run("mma", cases.collect(), cpu)
}
