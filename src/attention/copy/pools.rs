//! Pools of pages, and the table of their addresses on the device.

use super::PoolsLayout;
use crate::bindings::AttentionPool;
use crate::buffer::{Buffer, View, ViewMut};
use crate::element::Element;
use crate::launch::{Arguments, check_aligned, check_same};
use crate::queue::Queue;
use crate::region::Role;
use crate::{Error, Result};

/// Uploads where each pool's pages are.
fn upload_table(queue: &Queue, layout: &PoolsLayout, addresses: &[u64]) -> Result<Buffer<u8>> {
    let element_bytes = layout.element_bytes();
    let mut rows = Vec::with_capacity(layout.pools().len());
    let mut first_word = 0;
    for (idx, (pool, start)) in layout.pools().iter().zip(layout.starts()).enumerate() {
        // Packed pools have one buffer.
        let buffer = addresses.get(idx).or(addresses.first()).copied().unwrap_or(0);
        check_aligned("address of a pool", buffer, 4, "the multiples of 4 bytes")?;
        let page_bytes = (pool.page_len * element_bytes) as u32;
        rows.push(AttentionPool {
            pages: buffer + start * element_bytes,
            page_stride: pool.page_stride * element_bytes,
            page_bytes,
            first_word,
        });
        first_word += page_bytes / 4;
    }
    queue.upload(bytemuck::cast_slice::<AttentionPool, u8>(&rows))
}

/// A buffer of pools.
#[derive(Debug)]
enum Memory<'a, T> {
    Own(Buffer<T>),
    Lent(ViewMut<'a, T>),
}

impl<T: Element> Memory<'_, T> {
    fn view(&self) -> View<'_, T> {
        match self {
            Self::Own(buffer) => buffer.view(),
            Self::Lent(view) => view.as_view(),
        }
    }

    fn view_mut(&mut self) -> ViewMut<'_, T> {
        match self {
            Self::Own(buffer) => buffer.view_mut(),
            Self::Lent(view) => view.reborrow(),
        }
    }
}

/// Pools of pages, and a table of their addresses on the device, made once. The pools are its own, or borrowed for as
/// long as it lives: an address in the table is never of memory that is gone. Each is lent out again.
#[derive(Debug)]
pub struct Pools<'a, T> {
    layout: PoolsLayout,
    lens: Vec<u64>,
    table: Buffer<u8>,
    pools: Vec<Memory<'a, T>>,
}

impl<T: Element> Pools<'static, T> {
    /// The buffers of [`PoolsLayout::lens`], in device memory or [pinned](Queue::alloc_pinned).
    ///
    /// # Stream
    /// Uploads the table, and waits for that.
    ///
    /// # Errors
    /// [`Error::Shape`] where the buffers are not the layout's, [`Error::WrongQueue`], [`Error::WrongStream`],
    /// [`Error::Driver`].
    pub fn new(queue: &Queue, layout: PoolsLayout, buffers: Vec<Buffer<T>>) -> Result<Self> {
        Self::of(queue, layout, buffers.into_iter().map(Memory::Own).collect())
    }
}

impl<'a, T: Element> Pools<'a, T> {
    /// The same of pools that someone else owns.
    ///
    /// # Errors
    /// Those of [`new`](Self::new), and [`Error::Range`] where a view begins at no multiple of 4 bytes.
    pub fn borrow(queue: &Queue, layout: PoolsLayout, views: Vec<ViewMut<'a, T>>) -> Result<Self> {
        Self::of(queue, layout, views.into_iter().map(Memory::Lent).collect())
    }

    fn of(queue: &Queue, layout: PoolsLayout, pools: Vec<Memory<'a, T>>) -> Result<Self> {
        let element_bytes = layout.element_bytes();
        check_same("bytes of an element", element_bytes, size_of::<T>())?;
        let lens = layout.lens();
        check_same("buffers of pools", lens.len() as u64, pools.len())?;
        for (pool, len) in pools.iter().zip(&lens) {
            queue.check_view("pool", &pool.view())?;
            check_same("pool", *len, pool.view().len())?;
        }
        let addresses: Vec<_> = pools.iter().map(|pool| pool.view().address()).collect();
        let table = upload_table(queue, &layout, &addresses)?;
        Ok(Self { layout, lens, table, pools })
    }

    /// Its sizes.
    pub fn layout(&self) -> &PoolsLayout {
        &self.layout
    }

    /// One of its buffers, for reading.
    ///
    /// # Errors
    /// [`Error::Range`] past the last.
    pub fn view(&self, idx: usize) -> Result<View<'_, T>> {
        self.pools.get(idx).map(Memory::view).ok_or_else(|| no_pool(idx))
    }

    /// One of its buffers, for writing: what an engine writes new keys to.
    ///
    /// # Errors
    /// [`Error::Range`] past the last.
    pub fn view_mut(&mut self, idx: usize) -> Result<ViewMut<'_, T>> {
        self.pools.get_mut(idx).map(Memory::view_mut).ok_or_else(|| no_pool(idx))
    }

    pub(super) fn source(&self, arguments: &mut Arguments<'_>) -> Result<u64> {
        for (pool, len) in self.pools.iter().zip(&self.lens) {
            arguments.input("source pool", &pool.view(), *len)?;
        }
        arguments.input("table of source pools", &self.table.view(), self.table.len() as u64)
    }

    pub(super) fn target(&mut self, arguments: &mut Arguments<'_>) -> Result<u64> {
        for (pool, len) in self.pools.iter_mut().zip(&self.lens) {
            arguments.written(Role::InOut, "target pool", &pool.view_mut(), *len)?;
        }
        arguments.input("table of target pools", &self.table.view(), self.table.len() as u64)
    }
}

fn no_pool(idx: usize) -> Error {
    Error::Range { what: "buffer of pools", value: idx as u64, allowed: "those there are" }
}
