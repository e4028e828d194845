//! Queries beside cached ones, by the kernel.

use half::bf16;
use lacuna::select::reference::gate_query;
use lacuna::select::{GateInputs, GateOutputs, GatePlan, GateShape, gate_selection};
use lacuna::{Buffer, Queue};

use crate::house::case::{Budget, Case, Problem, Work, poison};

/// `gate_selection` of bf16 queries, of which every fourth is never like enough and every fifth is forced: so that
/// each launch finds what the first one found.
#[derive(Clone, Copy)]
struct Gate {
    batch: usize,
    n: usize,
    is_small: bool,
}

struct Requests {
    case: Gate,
    queries: Vec<bf16>,
    cached: Vec<bf16>,
    forced: Vec<u32>,
    thetas: Vec<f32>,
    skips: Vec<u32>,
}

fn numbers(n: usize, seed: u64) -> Vec<bf16> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut number = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bf16::from_f32((state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0)
    };
    (0..n).map(|_| number()).collect()
}

impl Gate {
    fn plan(&self, batch: usize) -> GatePlan {
        GatePlan::new(GateShape {
            batch: batch as u64,
            n: self.n as u64,
            query_stride: self.n as u64,
            cached_stride: self.n as u64,
            rows_per_request: 8,
            element_bytes: 2,
        })
        .expect("a shape that is supported")
    }
}

impl Case for Gate {
    fn kernel(&self) -> &'static str {
        "select/gate_selection"
    }

    fn shape(&self) -> String {
        format!("{} queries of {}, bf16", self.batch, self.n)
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        // A warp's word of a request is a sector.
        Budget { bytes: 1.07, sectors_per_request: 11.0, conflict_ways: 1.1, barriers: 1.0 }
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let queries = numbers(self.batch * self.n, 1);
        let mut cached = queries.clone();
        cached.iter_mut().step_by(3).for_each(|x| *x *= bf16::from_f32(1.25));
        let forced: Vec<u32> = (0..self.batch).map(|b| u32::from(b % 5 == 4)).collect();
        let thetas: Vec<f32> =
            (0..self.batch).map(|b| if b % 4 == 3 { 2.0 } else { 0.9 }).collect();
        let skips = (0..self.batch)
            .flat_map(|b| {
                let [query, cached] = [&queries, &cached].map(|rows| &rows[b * self.n..][..self.n]);
                let (is_like, _) = gate_query(query, (forced[b] == 0).then_some(cached), thetas[b]);
                [u32::from(is_like); 8]
            })
            .collect();
        Box::new(Requests { case: *self, queries, cached, forced, thetas, skips })
    }
}

impl Problem for Requests {
    fn least_bytes(&self) -> u64 {
        let n_cached = self.forced.iter().filter(|forced| **forced == 0).count() as u64;
        let n_selecting = self.skips.iter().filter(|skip| **skip == 0).count() as u64 / 8;
        self.case.plan(self.case.batch).least_bytes(n_cached, n_selecting)
    }

    fn expected(&self) -> &[u8] {
        bytemuck::cast_slice(&self.skips)
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let last = Launch::new(self, queue, 3)?;
        Ok(vec![("after three requests more".to_owned(), Box::new(last))])
    }
}

/// A launch whose last requests are looked at.
struct Launch {
    plan: GatePlan,
    queries: Buffer<bf16>,
    cached: Buffer<bf16>,
    states: Buffer<u32>,
    forced: Buffer<u32>,
    thetas: Buffer<f32>,
    skips: Buffer<u32>,
    n_words: usize,
}

impl Launch {
    fn new(requests: &Requests, queue: &Queue, n_more: usize) -> lacuna::Result<Self> {
        let Gate { batch, n, .. } = requests.case;
        let more = numbers(n_more * n, 77);
        Ok(Self {
            plan: requests.case.plan(batch + n_more),
            queries: queue.upload(&[&more[..], &requests.queries].concat())?,
            cached: queue.upload(&[&more[..], &requests.cached].concat())?,
            states: queue.upload(&vec![1; batch + n_more])?,
            forced: queue.upload(&[&vec![0; n_more][..], &requests.forced].concat())?,
            thetas: queue.upload(&[&vec![0.5; n_more][..], &requests.thetas].concat())?,
            skips: queue.alloc(8 * (batch + n_more))?,
            n_words: requests.skips.len(),
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let inputs = GateInputs {
            queries: self.queries.view(),
            forced: Some(self.forced.view()),
            thetas: Some(self.thetas.view()),
            theta: 0.9,
        };
        let mut outputs = GateOutputs {
            cached: self.cached.view_mut(),
            states: self.states.view_mut(),
            skips: self.skips.view_mut(),
            cosines: None,
        };
        gate_selection(queue, &self.plan, &inputs, &mut outputs)
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.skips)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let view = self.skips.view().slice(self.skips.len() - self.n_words..self.skips.len())?;
        Ok(bytemuck::cast_slice(&queue.download(&view)?).to_vec())
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    let cases = [(6, 4096, true), (3, 8192, true), (64, 4096, false), (256, 8192, false)];
    cases.map(|(batch, n, is_small)| Box::new(Gate { batch, n, is_small }) as _).into()
}
