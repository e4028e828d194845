//! A paged cache of keys and values, on the host, as lacuna's references read it.

use half::bf16;
use lacuna::kv::{KvLayout, KvShape};

use crate::Result;
use crate::llama::Config;

/// Rows of a page.
pub const PAGE_SIZE: usize = 16;

/// A context's keys and values, of all layers.
#[derive(Debug, Clone)]
pub struct Cache {
    /// Of each layer.
    pub layers: Vec<Rows>,
}

/// Those of a layer.
#[derive(Debug, Clone)]
pub struct Rows {
    layout: KvLayout,
    keys: Vec<bf16>,
    values: Vec<bf16>,
    page_table: Vec<i32>,
    n_tokens: u32,
}

impl Cache {
    /// With room for so many tokens.
    ///
    /// # Errors
    /// [`Error::Lacuna`](crate::Error::Lacuna) for sizes that no kernel has.
    pub fn new(config: &Config, n_tokens: usize) -> Result<Self> {
        let n_pages = n_tokens.div_ceil(PAGE_SIZE) as u64;
        let shape = KvShape {
            batch: 1,
            n_heads: config.n_heads as u64,
            row_len: config.head_dim as u64,
            n_pages,
            page_size: PAGE_SIZE as u64,
            table_stride: n_pages,
            ..KvShape::default()
        };
        let layout = KvLayout::new(shape.hnd())?;
        let n = layout.pool_len() as usize;
        let rows = Rows {
            layout,
            keys: vec![bf16::ZERO; n],
            values: vec![bf16::ZERO; n],
            // The last page first: that a table was passed over is seen.
            page_table: (0..n_pages as i32).rev().collect(),
            n_tokens: 0,
        };
        Ok(Self { layers: vec![rows; config.n_layers] })
    }

    /// Tokens that all layers have.
    pub fn n_tokens(&self) -> usize {
        self.layers.last().map_or(0, Rows::n_tokens)
    }
}

impl Rows {
    /// Its sizes.
    pub fn layout(&self) -> KvLayout {
        self.layout
    }

    /// The pool of keys.
    pub fn keys(&self) -> &[bf16] {
        &self.keys
    }

    /// The pool of values.
    pub fn values(&self) -> &[bf16] {
        &self.values
    }

    /// `[table_stride]`.
    pub fn page_table(&self) -> &[i32] {
        &self.page_table
    }

    /// How many there are.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens as usize
    }

    /// The same, as lengths of one request.
    pub fn lengths(&self) -> &[u32] {
        std::slice::from_ref(&self.n_tokens)
    }

    /// A token's row of a head, of keys or of values.
    pub fn row<'a>(&self, pool: &'a [bf16], token: usize, head: usize) -> &'a [bf16] {
        let start = self.layout.locate(&self.page_table, 0, token as u64, head as u64);
        let start = start.expect("every page is there");
        &pool[start..start + self.layout.shape().row_len as usize]
    }

    /// Appends a token's heads.
    ///
    /// # Panics
    /// Where there is no room.
    pub fn push(&mut self, keys: &[bf16], values: &[bf16]) {
        let d = self.layout.shape().row_len as usize;
        assert!((self.n_tokens as u64) < self.layout.n_rows(), "a cache with room");
        for (head, (key, value)) in keys.chunks(d).zip(values.chunks(d)).enumerate() {
            let at = (u64::from(self.n_tokens), head as u64);
            let start = self.layout.locate(&self.page_table, 0, at.0, at.1);
            let start = start.expect("every page is there");
            self.keys[start..start + d].copy_from_slice(key);
            self.values[start..start + d].copy_from_slice(value);
        }
        self.n_tokens += 1;
    }
}
