//! The engine's paged cache of numbers, of one request: its pages come from a free list and go back to it.

use std::ops::Range;

use half::bf16;
use lacuna::kv::{KvLayout, KvView, KvViewMut};
use lacuna::{Buffer, Queue, Result, ViewMut};

pub struct Rows {
    layout: KvLayout,
    keys: Buffer<bf16>,
    values: Buffer<bf16>,
    page_table: Buffer<i32>,
    /// How many rows there are, and how many there were: they change places with every append.
    lengths: [Buffer<u32>; 2],
    /// The page table on the host: -1 where there is no page.
    table: Vec<i32>,
    free: Vec<i32>,
    n_tokens: usize,
}

impl Rows {
    pub fn new(queue: &Queue, layout: KvLayout) -> Result<Self> {
        let n = layout.pool_len() as usize;
        let table = vec![-1; layout.table_len() as usize];
        Ok(Self {
            keys: queue.alloc(n)?,
            values: queue.alloc(n)?,
            page_table: queue.upload(&table)?,
            lengths: [queue.upload(&[0_u32])?, queue.upload(&[0_u32])?],
            free: (0..layout.shape().n_pages as i32).rev().collect(),
            table,
            layout,
            n_tokens: 0,
        })
    }

    /// From now on these rows have pages, and no others.
    pub fn hold(&mut self, queue: &Queue, rows: [Range<usize>; 2]) -> Result<()> {
        let page_size = self.layout.shape().page_size as usize;
        let is_held = |page: usize| {
            let of_page = page * page_size..(page + 1) * page_size;
            rows.iter().any(|rows| {
                !rows.is_empty() && rows.start < of_page.end && of_page.start < rows.end
            })
        };
        for (i, page) in self.table.iter_mut().enumerate() {
            if *page >= 0 && !is_held(i) {
                self.free.push(std::mem::replace(page, -1));
            }
        }
        for (i, page) in self.table.iter_mut().enumerate() {
            if *page < 0 && is_held(i) {
                *page = self.free.pop().expect("a pool for all rows that are held");
            }
        }
        queue.upload_into(&self.table, &mut self.page_table.view_mut())
    }

    pub fn layout(&self) -> KvLayout {
        self.layout
    }

    /// Tokens that were appended.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Whether a row has a page.
    pub fn has(&self, row: usize) -> bool {
        self.table[row / self.layout.shape().page_size as usize] >= 0
    }

    /// Pages that are in use, and bytes of each with its values.
    pub fn in_use(&self) -> (u64, u64) {
        let n_pages = self.table.iter().filter(|page| **page >= 0).count() as u64;
        let kv = self.layout.shape();
        (n_pages, 2 * 2 * kv.page_size * kv.n_heads * kv.row_len)
    }

    pub fn table(&self) -> &[i32] {
        &self.table
    }

    pub fn free(&self) -> &[i32] {
        &self.free
    }

    pub fn view(&self) -> KvView<'_, bf16> {
        KvView {
            layout: self.layout,
            keys: self.keys.view(),
            values: Some(self.values.view()),
            page_table: self.page_table.view(),
            lengths: self.lengths[0].view(),
            key_scale: 1.0,
            value_scale: 1.0,
        }
    }

    /// For [`append_kv`](lacuna::quant::append_kv): the cache, and where its new length goes.
    pub fn for_append(&mut self) -> (KvViewMut<'_, bf16>, ViewMut<'_, u32>) {
        let [lengths, new_lengths] = &mut self.lengths;
        let cache = KvViewMut {
            layout: self.layout,
            keys: self.keys.view_mut(),
            values: Some(self.values.view_mut()),
            page_table: self.page_table.view(),
            lengths: lengths.view(),
        };
        (cache, new_lengths.view_mut())
    }

    /// After it.
    pub fn appended(&mut self, n_tokens: usize) {
        self.lengths.swap(0, 1);
        self.n_tokens += n_tokens;
    }

    /// Lengths before the last append.
    pub fn old_lengths(&self) -> lacuna::View<'_, u32> {
        self.lengths[1].view()
    }
}
