//! Chunks of prompts over what was kept of them.

use std::cell::OnceCell;
use std::ops::Range;
use std::rc::Rc;

use half::{bf16, f16};
use lacuna::attention::reference::Prefilled;
use lacuna::attention::{
    Mask, Positions, PrefillInputs, PrefillOutputs, PrefillPlan, PrefillShape, attend_prefill,
};
use lacuna::element::{Half, Real};
use lacuna::kv::{KvLayout, KvShape};
use lacuna::mma::Model;
use lacuna::{Buffer, Queue};
use serde_json::json;

use crate::house::cache::{Cache, Placed, numbers};
use crate::house::case::{Budget, Case, Peer, Problem, Work, poison};
use crate::peers::attention::Attention;
use crate::peers::process::Inputs;
use crate::rows::{bytes_of, without_model};

/// Requests of as many queries each, after as many kept tokens, in pages of 16.
#[derive(Clone, Copy)]
struct Shape {
    batch: u64,
    n_queries: u64,
    n_before: u64,
    n_heads: u64,
    group: u64,
    head_dim: u64,
    /// Every so many-th token was kept, and positions are given; 1: all, and they are the rows' own.
    step: u64,
    mask: Mask,
    is_bf16: bool,
    is_small: bool,
}

const PAGE_SIZE: u64 = 16;
/// Tokens of a large case whose outputs are compared: of 16 Ki tokens a query head takes the model 0.1 s.
const N_COMPARED: u64 = 16;

/// Some of a request's queries, as a request.
#[derive(Clone, Copy)]
struct Piece {
    b: u64,
    first: u64,
    n: u64,
}

impl Shape {
    fn n(&self) -> u64 {
        self.n_before + self.n_queries
    }

    fn layout(&self, page_size: u64) -> KvShape {
        let table_stride = self.n().div_ceil(page_size);
        KvShape {
            batch: self.batch,
            n_heads: self.n_heads,
            row_len: self.head_dim,
            n_pages: self.batch * table_stride,
            page_size,
            table_stride,
            ..KvShape::default()
        }
    }

    /// Each request as so many pieces.
    fn pieces(&self, n_of_request: u64) -> Vec<Piece> {
        let n = self.n_queries.div_ceil(n_of_request);
        let of = |b| {
            let firsts = (0..self.n_queries).step_by(n as usize);
            firsts.map(move |first| Piece { b, first, n: n.min(self.n_queries - first) })
        };
        (0..self.batch).flat_map(of).collect()
    }

    fn plan(&self, layout: &KvLayout, pieces: &[Piece]) -> PrefillPlan {
        let kv = KvShape { batch: pieces.len() as u64, ..*layout.shape() };
        let layout = KvLayout::new(kv).expect("a layout");
        let n_tokens = pieces.iter().map(|piece| piece.n).sum();
        PrefillPlan::new(PrefillShape {
            positions: if self.step == 1 { Positions::Rows } else { Positions::Given },
            mask: self.mask,
            ..PrefillShape::of(layout, self.n_heads * self.group, n_tokens)
        })
        .expect("a shape that is supported")
    }

    /// Positions of rows from one on.
    fn positions(&self, first: u64, n: u64) -> impl Iterator<Item = i32> {
        let step = self.step;
        (first..first + n).map(move |row| (row * step) as i32)
    }

    /// Rows that any of some of a request's queries sees.
    fn seen(&self, first: u64, last: u64) -> Range<u64> {
        let (first, last) = (self.n_before + first, self.n_before + last);
        match self.mask {
            Mask::None => 0..self.n(),
            Mask::Causal => 0..last + 1,
            Mask::Window(window) => {
                (first + 1).saturating_sub(window.div_ceil(self.step))..last + 1
            }
        }
    }

    /// Those that any query sees.
    fn n_needed(&self) -> u64 {
        let seen = self.seen(0, self.n_queries - 1);
        seen.end - seen.start
    }

    /// Tokens that are compared.
    fn compared(&self) -> Vec<usize> {
        let n = self.batch * self.n_queries;
        let n_compared = if self.is_small { n } else { N_COMPARED };
        (0..n_compared).map(|i| (i * (n - 1) / (n_compared - 1).max(1)) as usize).collect()
    }

    fn build<T: Half + Real + Sync>(&self, model: Option<Model>) -> Requests<T> {
        let layout = KvLayout::new(self.layout(PAGE_SIZE).nhd()).expect("a layout");
        let plan = self.plan(&layout, &self.pieces(1));
        let mut number = numbers();
        let queries = (0..plan.queries_len()).map(|_| number()).collect();
        let cache = Cache::new(&layout, self.n(), &mut number).with_values(&mut number);
        let mut requests = Requests { case: *self, layout, queries, cache, expected: Vec::new() };
        if let Some(model) = model {
            requests.expected = requests.attend_on_cpu(model);
        }
        requests
    }
}

impl Case for Shape {
    fn kernel(&self) -> &'static str {
        if self.head_dim <= 128 { "attention/prefill_128" } else { "attention/prefill_256" }
    }

    fn shape(&self) -> String {
        let Self { batch, n_queries, n_before, n_heads, group, head_dim, step, .. } = self;
        let n_q_heads = n_heads * group;
        let element = if self.is_bf16 { "bf16" } else { "f16" };
        let kept = if *step == 1 { String::new() } else { format!(" kept, one of {step},") };
        let window = match self.mask {
            Mask::Window(window) => format!(", window of {window}"),
            Mask::None | Mask::Causal => String::new(),
        };
        let compared = if self.is_small {
            String::new()
        } else {
            format!(", {N_COMPARED} of the tokens compared")
        };
        format!(
            "{n_queries} times {n_q_heads} of {n_heads} heads of {head_dim} after {n_before}{kept} in {batch} requests{window}, {element}{compared}"
        )
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        let block_rows = if self.head_dim <= 128 { 64 } else { 32 };
        let n_rows = self.n_queries * self.group;
        let n_blocks = n_rows.div_ceil(block_rows);
        let seen: Vec<_> = (0..n_blocks)
            .map(|block| {
                let last = ((block + 1) * block_rows).min(n_rows) - 1;
                self.seen(block * block_rows / self.group, last / self.group)
            })
            .collect();
        let n_seen: u64 = seen.iter().map(|rows| rows.end - rows.start).sum();
        // Stages are looked for, and those that any query sees multiplied; of rows that have their numbers as positions it is known
        // which those are.
        let stage = |rows: &Range<u64>| rows.end.div_ceil(block_rows) - rows.start / block_rows;
        let n_stages: u64 = seen.iter().map(stage).sum();
        let (n_looks, word_bytes) = if self.step == 1 {
            (n_stages, 2)
        } else {
            (n_blocks * self.n().div_ceil(block_rows), 6)
        };
        // As many rows of queries as a block has read what keys and values they see again; and of all rows that are looked for the
        // positions, and the words of their pages, of which every sixteen cost a sector.
        let again = (n_seen - self.n_needed()) * 4 * self.head_dim;
        let words = n_looks * block_rows * word_bytes;
        let again = (self.batch * self.n_heads * (again + words)) as f64;
        Budget {
            bytes: 1.03 + again / self.least_bytes() as f64,
            sectors_per_request: 14.1,
            conflict_ways: 1.1,
            barriers: 5.0 + (n_looks + 2 * n_stages) as f64 / n_blocks as f64,
        }
    }

    fn unsupported(&self, queue: &Queue) -> Option<String> {
        without_model(queue)
    }

    fn prepare(&self, queue: &Queue) -> Box<dyn Problem> {
        let model = queue.mma_model();
        if self.is_bf16 {
            Box::new(self.build::<bf16>(model))
        } else {
            Box::new(self.build::<f16>(model))
        }
    }
}

impl Shape {
    /// Queries, outputs and log-sums; keys, values, positions and pages of what any query sees; positions of queries, starts and
    /// lengths.
    fn least_bytes(&self) -> u64 {
        let n_tokens = self.batch * self.n_queries;
        let n_needed = self.batch * self.n_needed();
        let n_positions = if self.step == 1 { 0 } else { n_tokens + n_needed };
        let n_words = n_tokens * self.n_heads * self.group
            + n_positions
            + n_needed.div_ceil(PAGE_SIZE)
            + 2 * self.batch
            + 1;
        let n_elements = self.n_heads * (2 * n_needed + 2 * self.group * n_tokens) * self.head_dim;
        2 * n_elements + 4 * n_words
    }
}

struct Requests<T> {
    case: Shape,
    layout: KvLayout,
    queries: Vec<T>,
    cache: Cache<T>,
    /// Outputs of the tokens that are compared, and their log-sums after them.
    expected: Vec<u8>,
}

impl<T: Half + Real + Sync> Requests<T> {
    fn attend_on_cpu(&self, model: Model) -> Vec<u8> {
        let Self { case, layout, queries, cache, .. } = self;
        let plan = case.plan(layout, &case.pieces(1));
        let given = Given::new(case, layout, &case.pieces(1));
        let prefilled = Prefilled {
            plan: &plan,
            model,
            queries,
            query_starts: &given.starts,
            query_positions: &given.query_positions,
            key_positions: &given.key_positions,
            keys: &cache.keys,
            values: &cache.values,
            page_table: &cache.page_table,
            lengths: &cache.lengths,
            sinks: None,
        };
        let (n_queries, n_q_heads) = (case.n_queries as usize, plan.shape().n_q_heads as usize);
        let rows =
            case.compared().into_iter().flat_map(|token| (0..n_q_heads).map(move |q| (token, q)));
        bytes_of::<T, _>(rows.collect(), |(token, q)| {
            prefilled.query(token / n_queries, token % n_queries, q)
        })
    }
}

/// What says where queries and rows are.
struct Given {
    starts: Vec<u32>,
    lengths: Vec<u32>,
    query_positions: Vec<i32>,
    key_positions: Vec<i32>,
}

impl Given {
    fn new(case: &Shape, layout: &KvLayout, pieces: &[Piece]) -> Self {
        let ends = pieces.iter().scan(0, |end, piece| {
            *end += piece.n as u32;
            Some(*end)
        });
        let lengths = pieces.iter().map(|piece| (case.n_before + piece.first + piece.n) as u32);
        let of_queries = |piece: &Piece| case.positions(case.n_before + piece.first, piece.n);
        let pieces_of_positions = if case.step == 1 { &[] } else { pieces };
        Self {
            starts: [0].into_iter().chain(ends).collect(),
            lengths: lengths.collect(),
            query_positions: pieces_of_positions.iter().flat_map(of_queries).collect(),
            key_positions: pieces_of_positions
                .iter()
                .flat_map(|_| case.positions(0, layout.n_rows()))
                .collect(),
        }
    }
}

impl<T: Half + Real + Sync> Problem for Requests<T> {
    fn least_bytes(&self) -> u64 {
        self.case.least_bytes()
    }

    fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, &self.case.pieces(1), &self.layout, &self.cache, queue)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let case = &self.case;
        let of = |pieces: &[Piece]| Launch::new(self, pieces, &self.layout, &self.cache, queue);
        let own = case.pieces(1);
        let more = of(&[&[own[0]; 2], &own[..]].concat())?;
        let cut = of(&case.pieces(3))?;
        let layout = KvLayout::new(case.layout(24).hnd())?;
        let cache = self.cache.laid_out(&self.layout, &layout);
        let in_heads = Launch::new(self, &own, &layout, &cache, queue)?;
        Ok(vec![
            ("after two requests more".to_owned(), Box::new(more)),
            ("of heads apart, in pages of 24".to_owned(), Box::new(in_heads)),
            ("in three chunks".to_owned(), Box::new(cut)),
        ])
    }

    /// Of one step between all positions, a causal mask over the kept rows is the same.
    fn peers(&self) -> Vec<Box<dyn Peer + '_>> {
        let Shape { batch, n_queries, n_heads, group, head_dim, mask, .. } = self.case;
        if mask != Mask::Causal {
            return Vec::new();
        }
        let kv = self.layout.shape();
        let compared = self.case.compared();
        let sizes = json!({
            "batch": batch, "n_heads": n_heads, "group": group, "head_dim": head_dim, "n_pages": kv.n_pages,
            "page_size": PAGE_SIZE, "n_pages_each": kv.table_stride, "n_tokens": self.case.n(), "block_size": 0,
            "n_lists": 1, "n_blocks": 0, "element": if self.case.is_bf16 { "bf16" } else { "f16" },
            "n_queries": n_queries, "compared": compared,
        });
        let n_outputs = 2 * compared.len() * (n_heads * group * head_dim) as usize;
        let arrays: Vec<&[u8]> = vec![
            bytemuck::cast_slice(&self.queries),
            bytemuck::cast_slice(&self.cache.keys),
            bytemuck::cast_slice(&self.cache.values),
            bytemuck::cast_slice(&self.cache.page_table),
            &[],
            &self.expected[..n_outputs],
        ];
        let inputs = Rc::new(Inputs { sizes, arrays, file: OnceCell::new() });
        vec![Box::new(Attention { library: "torch-causal", inputs })]
    }
}

/// A launch whose last tokens are looked at.
struct Launch<T> {
    plan: PrefillPlan,
    queries: Buffer<T>,
    starts: Buffer<u32>,
    /// Of queries and of rows, where they are given.
    positions: Option<[Buffer<i32>; 2]>,
    cache: Placed<T>,
    outputs: Buffer<T>,
    log_sums: Buffer<f32>,
    /// Of all tokens of the launch.
    compared: Vec<usize>,
}

impl<T: Half + Real + Sync> Launch<T> {
    fn new(
        requests: &Requests<T>,
        pieces: &[Piece],
        layout: &KvLayout,
        cache: &Cache<T>,
        queue: &Queue,
    ) -> lacuna::Result<Self> {
        let case = &requests.case;
        let plan = case.plan(layout, pieces);
        let given = Given::new(case, layout, pieces);
        let token_len = (case.n_heads * case.group * case.head_dim) as usize;
        let of_piece = |piece: &Piece| {
            let first = (piece.b * case.n_queries + piece.first) as usize;
            &requests.queries[first * token_len..][..piece.n as usize * token_len]
        };
        let queries: Vec<_> = pieces.iter().flat_map(of_piece).copied().collect();
        let table_stride = layout.shape().table_stride as usize;
        let table_of =
            |piece: &Piece| &cache.page_table[piece.b as usize * table_stride..][..table_stride];
        let cache = Cache {
            keys: cache.keys.clone(),
            values: cache.values.clone(),
            page_table: pieces.iter().flat_map(table_of).copied().collect(),
            lengths: given.lengths,
        };
        let n_more = (plan.shape().n_tokens - case.batch * case.n_queries) as usize;
        let positions = (case.step != 1).then(|| -> lacuna::Result<_> {
            Ok([queue.upload(&given.query_positions)?, queue.upload(&given.key_positions)?])
        });
        Ok(Self {
            queries: queue.upload(&queries)?,
            starts: queue.upload(&given.starts)?,
            positions: positions.transpose()?,
            cache: cache.place(queue, plan.shape().layout, 0)?,
            outputs: queue.alloc(plan.outputs_len() as usize)?,
            log_sums: queue.alloc(plan.log_sums_len() as usize)?,
            compared: case.compared().into_iter().map(|token| n_more + token).collect(),
            plan,
        })
    }
}

impl<T: Half + Real + Sync> Work for Launch<T> {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let inputs = PrefillInputs {
            queries: self.queries.view(),
            query_starts: self.starts.view(),
            query_positions: self.positions.as_ref().map(|[queries, _]| queries.view()),
            key_positions: self.positions.as_ref().map(|[_, keys]| keys.view()),
            cache: self.cache.view(),
            sinks: None,
            skips: None,
        };
        let mut outputs = PrefillOutputs {
            outputs: self.outputs.view_mut(),
            log_sums: Some(self.log_sums.view_mut()),
        };
        attend_prefill(queue, &self.plan, &inputs, &mut outputs)
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.outputs)?;
        poison(queue, &mut self.log_sums)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let shape = self.plan.shape();
        let (token_len, n_heads) = (shape.output_stride as usize, shape.n_q_heads as usize);
        let outputs = queue.download(&self.outputs.view())?;
        let log_sums = queue.download(&self.log_sums.view())?;
        let of = |token: &usize| &outputs[token * token_len..][..token_len];
        let outputs: Vec<_> = self.compared.iter().flat_map(of).copied().collect();
        let of = |token: &usize| &log_sums[token * n_heads..][..n_heads];
        let log_sums: Vec<_> = self.compared.iter().flat_map(of).copied().collect();
        Ok([bytemuck::cast_slice(&outputs), bytemuck::cast_slice(&log_sums)].concat())
    }
}

const SMALL: Shape = Shape {
    batch: 1,
    n_queries: 40,
    n_before: 200,
    n_heads: 2,
    group: 4,
    head_dim: 128,
    step: 2,
    mask: Mask::Causal,
    is_bf16: true,
    is_small: true,
};

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    let large = Shape { n_queries: 2048, n_before: 14_336, n_heads: 8, is_small: false, ..SMALL };
    [
        SMALL,
        Shape { batch: 2, n_queries: 70, n_before: 0, group: 1, step: 1, head_dim: 64, ..SMALL },
        Shape { n_before: 400, n_heads: 1, mask: Mask::Window(100), is_bf16: false, ..SMALL },
        Shape { n_queries: 20, n_before: 100, n_heads: 1, head_dim: 256, ..SMALL },
        large,
        Shape { batch: 4, n_queries: 512, ..large },
    ]
    .map(|shape| Box::new(shape) as _)
    .into()
}
