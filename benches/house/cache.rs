//! The paged caches of benches, in a queue's memory.

use std::borrow::Cow;

use half::bf16;
use lacuna::element::Half;
use lacuna::kv::{KvLayout, KvView};
use lacuna::{Buffer, Queue};

/// Numbers from -1 to 1, the same in every run.
pub(crate) fn numbers<T: Half>() -> impl FnMut() -> T {
    let mut state = 9_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        T::from_f32((state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0)
    }
}

/// A cache whose requests are all of one length.
pub(crate) struct Cache<T = bf16> {
    pub(crate) keys: Vec<T>,
    /// None, or as many as keys.
    pub(crate) values: Vec<T>,
    /// Every page in the place of another.
    pub(crate) page_table: Vec<i32>,
    pub(crate) lengths: Vec<u32>,
}

impl<T: Half> Cache<T> {
    /// Of keys alone.
    pub(crate) fn new(layout: &KvLayout, n_tokens: u64, numbers: &mut impl FnMut() -> T) -> Self {
        Self {
            keys: (0..layout.pool_len()).map(|_| numbers()).collect(),
            values: Vec::new(),
            page_table: (0..layout.table_len() as i32).rev().collect(),
            lengths: vec![n_tokens as u32; layout.shape().batch as usize],
        }
    }

    pub(crate) fn with_values(self, numbers: &mut impl FnMut() -> T) -> Self {
        Self { values: self.keys.iter().map(|_| numbers()).collect(), ..self }
    }

    /// The same rows in another layout, of as many requests and heads.
    pub(crate) fn laid_out(&self, from: &KvLayout, to: &KvLayout) -> Self {
        let pool = |pool: &[T]| vec![T::from_f32(0.0); pool.len().min(1) * to.pool_len() as usize];
        let mut cache = Self {
            keys: pool(&self.keys),
            values: pool(&self.values),
            page_table: (0..to.table_len() as i32).rev().collect(),
            lengths: self.lengths.clone(),
        };
        let kv = from.shape();
        let d = kv.row_len as usize;
        for (b, length) in self.lengths.iter().enumerate() {
            for (t, h) in (0..u64::from(*length)).flat_map(|t| (0..kv.n_heads).map(move |h| (t, h)))
            {
                let [source, target] = [(from, &self.page_table), (to, &cache.page_table)]
                    .map(|(layout, table)| layout.locate(table, b as u64, t, h).expect("a page"));
                cache.keys[target..][..d].copy_from_slice(&self.keys[source..][..d]);
                if !self.values.is_empty() {
                    cache.values[target..][..d].copy_from_slice(&self.values[source..][..d]);
                }
            }
        }
        cache
    }

    /// With the first request `n_more` times more in front; `layout` is of as many.
    pub(crate) fn place(
        &self,
        queue: &Queue,
        layout: KvLayout,
        n_more: usize,
    ) -> lacuna::Result<Placed<T>> {
        let batch = self.lengths.len();
        // As many pages as the layout says; what is new is not used.
        let whole = |pool| -> Cow<'_, [T]> {
            let (pool, n): (&Vec<T>, _) = (pool, layout.pool_len() as usize);
            if pool.len() == n {
                return pool.into();
            }
            let mut pool = pool.clone();
            pool.resize(n, T::from_f32(0.0));
            pool.into()
        };
        let has_values = !self.values.is_empty();
        Ok(Placed {
            layout,
            keys: queue.upload(&whole(&self.keys))?,
            values: has_values.then(|| queue.upload(&whole(&self.values))).transpose()?,
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
pub(crate) struct Placed<T = bf16> {
    pub(crate) layout: KvLayout,
    keys: Buffer<T>,
    values: Option<Buffer<T>>,
    page_table: Buffer<i32>,
    pub(crate) lengths: Buffer<u32>,
}

impl<T: Half> Placed<T> {
    pub(crate) fn view(&self) -> KvView<'_, T> {
        KvView {
            layout: self.layout,
            keys: self.keys.view(),
            values: self.values.as_ref().map(Buffer::view),
            page_table: self.page_table.view(),
            lengths: self.lengths.view(),
            key_scale: 1.0,
            value_scale: 1.0,
        }
    }
}
