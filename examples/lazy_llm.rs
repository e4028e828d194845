//! LazyLLM (arXiv:2407.14057): each layer drops the tokens of a prompt that its last one attends to least.
//!
//! `cargo run --release --example lazy_llm --features simt`
#![allow(
    dead_code,
    unreachable_pub,
    clippy::missing_errors_doc,
    reason = "a module of the tests too"
)]

use half::bf16;
use lacuna::kv::{KvLayout, KvShape, KvView};
use lacuna::select::{self, Absent, CompactShape, MAX_PICKS, RowStrides, RowsPlan, RowsShape};
use lacuna::select::{MassInputs, MassOutputs, MassPlan, MassShape};
use lacuna::select::{Rule, TopkInputs, TopkOutputs, TopkPages, TopkPlan, TopkShape};
use lacuna::{Buffer, Error, Queue, Result, View};

mod toy;

/// What one layer needs, and what it keeps.
struct Layer {
    mass: MassPlan,
    topk: TopkPlan,
    masses: Buffer<f32>,
    softmaxes: Buffer<u64>,
    workspace: Buffer<u64>,
    places: Buffer<i32>,
    slots: Buffer<i32>,
    counts: Buffer<u32>,
    /// Tokens that it may hand on.
    k: u64,
    /// Where they may be more than picks: a mask, and the launch that turns places into slots.
    long: Option<(toy::Mask, RowsPlan)>,
}

/// A prompt's schedule. Of what a layer gets, it drops the lowest percentage and hands on the rest, the last token always.
///
/// What a layer hands on are slots of the pool, which are the next layer's page table of pages of one token, and their count,
/// which is its length: no layer sees a token that an earlier one dropped, and nothing goes through the host. All layers'
/// pools have the same slots. The paper's Aux Cache, from which a dropped token is computed later, is up to the engine, which
/// has the hidden states.
pub struct LazyLlm {
    layers: Vec<Layer>,
}

impl LazyLlm {
    /// One percentage of dropped tokens for each layer: 0 or little in early layers, more in later ones. Where a layer
    /// may hand on more than 8,192 tokens, it must get pages of one token.
    pub fn new(queue: &Queue, layout: KvLayout, n_q_heads: u64, percents: &[f32]) -> Result<Self> {
        let kv = *layout.shape();
        if kv.page_stride != kv.page_size * kv.token_stride {
            let (what, value) = ("stride between pages, in elements", kv.page_stride);
            return Err(Error::Range { what, value, allowed: "those of pages in one row" });
        }
        // Pages of one token, of which a layer's list has so many.
        let of_list = |n: u64| {
            KvLayout::new(KvShape {
                n_pages: kv.n_pages * kv.page_size,
                page_size: 1,
                table_stride: n,
                page_stride: kv.token_stride,
                ..kv
            })
        };
        let mut layers: Vec<Layer> = Vec::new();
        for percent in percents {
            let layout = match layers.last() {
                None => layout,
                Some(layer) => of_list(layer.k)?,
            };
            let n = layout.n_rows();
            // Rounded up once more, so that no percentage loses its last token to a rounding here.
            let k = (n as f64 * f64::from(100.0 - percent) / 100.0).ceil() as u64 + 1;
            layers.push(Layer::new(queue, layout, n_q_heads, *percent, k.min(n))?);
        }
        Ok(Self { layers })
    }

    /// Prunes after layer `l`, whose keys `cache` has under the pages of the first: three launches, or five or six
    /// where the lists are long. `query` is that of
    /// the last token, `[batch, n_q_heads, head_dim]`; `n_visible`, `[batch]`, no less than the prompt's length.
    pub fn step(
        &mut self,
        queue: &Queue,
        l: usize,
        query: View<'_, bf16>,
        n_visible: View<'_, u32>,
        cache: KvView<'_, bf16>,
    ) -> Result<()> {
        let (before, layers) = self.layers.split_at_mut(l);
        let layer = &mut layers[0];
        let (mass, topk) = (layer.mass, layer.topk);
        let (page_table, lengths) = match before.last() {
            None => (cache.page_table, cache.lengths),
            Some(before) => (before.slots.view(), before.counts.view()),
        };
        let cache = KvView { layout: mass.shape().layout, page_table, lengths, ..cache };
        let inputs = MassInputs { probes: query, n_visible, cache, skips: None };
        let mut outputs = MassOutputs {
            masses: layer.masses.view_mut(),
            softmaxes: layer.softmaxes.view_mut(),
            workspace: layer.workspace.view_mut(),
        };
        select::column_mass(queue, &mass, &inputs, &mut outputs)?;

        let inputs =
            TopkInputs { lengths: Some(lengths), ..TopkInputs::whole(layer.masses.view()) };
        if let Some((mask, to_slots)) = &mut layer.long {
            let mut nothing = layer.places.view_mut();
            let mut outputs = TopkOutputs {
                kept: Some(mask.kept.view_mut()),
                ..TopkOutputs::new(nothing.slice_mut(0..0)?, layer.counts.view_mut())
            };
            select::topk_rows(queue, &topk, &inputs, &mut outputs)?;
            mask.list(queue, lengths, (&mut layer.places, &mut layer.counts))?;
            let (places, slots) = (&layer.places.view(), &mut layer.slots.view_mut());
            return select::gather_rows(queue, to_slots, &page_table, places, Absent::Kept, slots);
        }
        let inputs = TopkInputs { page_table: Some(page_table), ..inputs };
        let mut outputs = TopkOutputs {
            slots: Some(layer.slots.view_mut()),
            ..TopkOutputs::new(layer.places.view_mut(), layer.counts.view_mut())
        };
        select::topk_rows(queue, &topk, &inputs, &mut outputs)
    }

    /// What layer `l` hands on: `[batch, k]`, the kept tokens' places in its own list, ascending, then -1; and `[batch]`,
    /// how many they are. By the places hidden states are gathered, and positions.
    pub fn kept(&self, l: usize) -> (View<'_, i32>, View<'_, u32>) {
        (self.layers[l].places.view(), self.layers[l].counts.view())
    }

    /// The same tokens by their slots in the pool; after those of a long list, anything.
    pub fn slots(&self, l: usize) -> View<'_, i32> {
        self.layers[l].slots.view()
    }
}

impl Layer {
    fn new(queue: &Queue, layout: KvLayout, n_q_heads: u64, percent: f32, k: u64) -> Result<Self> {
        let (kv, n) = (layout.shape(), layout.n_rows());
        let mass = MassPlan::new(MassShape::of(layout, n_q_heads, 1))?;
        let is_long = k > MAX_PICKS.into();
        if is_long && kv.page_size != 1 {
            let (what, value) = ("tokens of a page", kv.page_size);
            return Err(Error::Range { what, value, allowed: "1 where many tokens are handed on" });
        }
        let pages = TopkPages {
            n_pages: kv.n_pages,
            page_size: kv.page_size,
            table_stride: kv.table_stride,
        };
        let topk = TopkPlan::new(TopkShape {
            n_last: 1,
            rule: Rule::Percentile { percent },
            pages: (!is_long).then_some(pages),
            ..TopkShape::of::<f32>(kv.batch, n, if is_long { 0 } else { k })
        })?;
        let nowhere = RowStrides { list: 0, row: 0 };
        let to_slots = RowsShape {
            n_lists: kv.batch,
            n_indices: k,
            index_stride: k,
            n_table_rows: kv.table_stride,
            row_len: 1,
            table: nowhere,
            list: nowhere,
            element_bytes: 4,
        };
        let long = if is_long {
            let mask = toy::Mask::new(queue, CompactShape::of(kv.batch, n, k))?;
            Some((mask, RowsPlan::new(to_slots.dense())?))
        } else {
            None
        };
        let n_places = (kv.batch * k) as usize;
        Ok(Self {
            k,
            long,
            masses: queue.alloc(mass.masses_len() as usize)?,
            softmaxes: queue.alloc(mass.n_softmaxes() as usize)?,
            workspace: queue.alloc(mass.workspace_len() as usize)?,
            places: queue.alloc(n_places)?,
            slots: queue.upload(&vec![-1; n_places])?,
            counts: queue.alloc(kv.batch as usize)?,
            mass,
            topk,
        })
    }
}

fn main() -> Result<()> {
    let machine = toy::Machine::open();
    let (queue, mut random) = (&machine.queue, toy::Random(4));
    let sizes =
        toy::Sizes { batch: 1, n: 2048, n_q_heads: 4, n_heads: 2, head_dim: 64, page_size: 16 };
    let percents = [0.0, 10.0, 20.0, 40.0, 60.0];
    let length = [2000];
    let mut cache = toy::Cache::new(queue, sizes, &length, &mut random)?;
    let visible = queue.upload(&length)?;
    let n_q_heads = sizes.n_q_heads as u64;
    let mut recipe = LazyLlm::new(queue, cache.layout, n_q_heads, &percents)?;
    let mut n_seen = 0;
    for (l, percent) in percents.iter().enumerate() {
        // Every layer has keys of its own.
        cache.keys = random.row(cache.keys.len());
        cache.upload(queue, &length)?;
        let query = queue.upload(&random.row(sizes.n_q_heads * sizes.head_dim))?;
        recipe.step(queue, l, query.view(), visible.view(), cache.view())?;
        n_seen += if l == 0 { 2000 } else { queue.download(&recipe.kept(l - 1).1)?[0] as usize };
        let n_kept = queue.download(&recipe.kept(l).1)?[0];
        println!("layer {l} drops {percent:2} % and hands on {n_kept} tokens");
    }
    let n_bytes = sizes.n_heads as u64 * cache.bytes_of(n_seen);
    machine.report(percents.len() as u64 * cache.dense_bytes(), n_bytes);
    Ok(())
}
