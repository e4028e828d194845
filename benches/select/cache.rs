//! The paged caches of benches, in a queue's memory.

use half::bf16;
use lacuna::kv::{KvLayout, KvView};
use lacuna::{Buffer, Queue};

/// Numbers from -1 to 1, the same in every run.
pub(crate) fn numbers() -> impl FnMut() -> bf16 {
    let mut state = 9_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        bf16::from_f32((state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0)
    }
}

/// A cache of keys whose requests are all of one length.
pub(crate) struct Cache {
    pub(crate) keys: Vec<bf16>,
    /// Every page in the place of another.
    pub(crate) page_table: Vec<i32>,
    pub(crate) lengths: Vec<u32>,
}

impl Cache {
    pub(crate) fn new(
        layout: &KvLayout,
        n_tokens: u64,
        numbers: &mut impl FnMut() -> bf16,
    ) -> Self {
        Self {
            keys: (0..layout.pool_len()).map(|_| numbers()).collect(),
            page_table: (0..layout.table_len() as i32).rev().collect(),
            lengths: vec![n_tokens as u32; layout.shape().batch as usize],
        }
    }

    /// With the first request `n_more` times more in front; `layout` is of as many.
    pub(crate) fn place(
        &self,
        queue: &Queue,
        layout: KvLayout,
        n_more: usize,
    ) -> lacuna::Result<Placed> {
        let batch = self.lengths.len();
        // As many pages as the layout says; what is new is not used.
        let mut keys = self.keys.clone();
        keys.resize(layout.pool_len() as usize, bf16::ZERO);
        Ok(Placed {
            layout,
            keys: queue.upload(&keys)?,
            page_table: queue.upload(&again(&self.page_table, batch, n_more))?,
            lengths: queue.upload(&again(&self.lengths, batch, n_more))?,
        })
    }
}

/// What all of `batch` requests have, with the first one's `n_more` times more in front.
pub(crate) fn again<T: Copy>(all: &[T], batch: usize, n_more: usize) -> Vec<T> {
    [all[..all.len() / batch].repeat(n_more), all.to_vec()].concat()
}

/// A cache in a queue's memory.
pub(crate) struct Placed {
    pub(crate) layout: KvLayout,
    keys: Buffer<bf16>,
    page_table: Buffer<i32>,
    pub(crate) lengths: Buffer<u32>,
}

impl Placed {
    pub(crate) fn view(&self) -> KvView<'_, bf16> {
        KvView {
            layout: self.layout,
            keys: self.keys.view(),
            values: None,
            page_table: self.page_table.view(),
            lengths: self.lengths.view(),
            key_scale: 1.0,
            value_scale: 1.0,
        }
    }
}
