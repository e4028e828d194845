//! A cache that grows where it is: addresses for every request's most tokens are reserved once, and memory is put behind
//! them as tokens come (vAttention, <https://arxiv.org/abs/2405.04437>).

mod mapper;
mod physical;
mod plan;

use std::marker::PhantomData;
use std::sync::Arc;

use self::mapper::Mapper;
#[cfg(feature = "simt")]
use self::physical::HostRange;
pub(crate) use self::physical::Physical;
pub use self::plan::{ArenaPlan, ArenaShape, Packing, PageOrder};
use crate::Result;
use crate::buffer::{Buffer, Holes, View, ViewMut};
#[cfg(feature = "cuda")]
use crate::device::AddressRange;
use crate::element::Float;
use crate::error::check_below;
use crate::kv::{KvLayout, KvView, KvViewMut};
use crate::queue::{Inner, Queue};

/// Keys and values of all layers, of `n_slots` requests, each of which grows without moving.
///
/// To kernels it is a paged cache whose pages follow each other: a slot is a request of the batch, its rows lie one after
/// the other (in the strides of [`ArenaPlan::layout`]), and addresses, layout and the page table's place never change, so
/// that graphs which were captured once stay right while it grows. The table names the pages that are there: rows past
/// them are absent, whatever the lengths say, and no kernel asks memory for them.
///
/// What rows hold before they are written is unspecified: it may be what another slot let go.
///
/// # Memory
/// Memory comes in chunks, and a slot grows by one step, [`ArenaPlan::step_bytes`], at a time. A slot's chunks stay mapped
/// when it is released, and whoever grows next has them: the slot itself without any driver call, another one after the
/// work that was queued before has ended. [`trim`](Self::trim) gives them back to the device.
///
/// # Stream
/// `grow`, `shrink` and `release` queue one small copy or fill of the page table where it changes. A graph must not
/// capture that: on a stream that is being captured, they are refused. All work with an arena's views is in the order of
/// its queue.
///
/// # Threads
/// A thread of its own maps memory, also for `grow`, which waits for it; it has the device's context current only during
/// calls, and takes no part in other threads' captures. Dropping an arena waits for its queue's work, gives all memory
/// back and joins the thread. Where that wait fails, as while the stream is being captured, the memory is kept for good.
///
/// ```
/// # #[cfg(feature = "simt")] {
/// use half::bf16;
/// use lacuna::Queue;
/// use lacuna::kv::{ArenaShape, KvArena};
///
/// let queue = Queue::simt(lacuna::simt::Config::default());
/// let shape =
///     ArenaShape { n_slots: 2, max_tokens: 4096, n_layers: 4, n_heads: 2, row_len: 64, ..ArenaShape::default() };
/// let mut arena = KvArena::<bf16>::reserve(&queue, shape)?;
/// // A request of 100 tokens takes the first slot, and will have 101 after the next step.
/// arena.grow(0, 100)?;
/// arena.grow_ahead(0, 101)?;
/// let lengths = queue.upload(&[100_u32, 0])?;
/// let cache = arena.view(3, lengths.view())?;
/// assert_eq!(cache.layout.shape().batch, 2);
/// // It ends: the next one in this slot finds its memory mapped.
/// arena.release(0)?;
/// assert_eq!(arena.capacity(0), 0);
/// # }
/// # Ok::<_, lacuna::Error>(())
/// ```
#[derive(Debug)]
pub struct KvArena<T> {
    // Dropped first: it waits for the work that reads the table.
    mapper: Mapper,
    range: Arc<dyn Physical>,
    queue: Queue,
    plan: ArenaPlan,
    /// `[n_slots, table_stride]`: pages that are there; -1 else.
    page_table: Buffer<i32>,
    /// The same, were all there.
    all_pages: Buffer<i32>,
    holes: Holes,
    /// Steps of each slot that the page table names.
    named: Vec<u64>,
    element: PhantomData<T>,
}

/// Bytes of an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ArenaStats {
    /// Addresses, with or without memory.
    pub reserved_bytes: u64,
    /// Memory of slots as far as they have grown.
    pub live_bytes: u64,
    /// Memory that is mapped beyond: ahead, or let go and not yet taken away.
    pub spare_bytes: u64,
    /// Memory that is mapped nowhere.
    pub idle_bytes: u64,
    /// Asked for ahead, and not yet mapped.
    pub awaited_bytes: u64,
    /// How often growing ahead found no memory, or a driver's error. `grow` tries again, and says why.
    pub n_failed_ahead: u64,
}

impl ArenaStats {
    /// All memory that it has of the device.
    pub fn physical_bytes(&self) -> u64 {
        self.live_bytes + self.spare_bytes + self.idle_bytes
    }
}

impl<T: Float> KvArena<T> {
    /// Reserves addresses on a queue's device; no memory, but for two page tables of 4 bytes a page.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) for a shape that [`ArenaPlan::new`] refuses; [`Error::Driver`](crate::Error::Driver), also where the device has no
    /// virtual memory management; [`Error::Mapper`](crate::Error::Mapper) where no thread starts. In the SIMT executor all memory of the
    /// reservation is the host's, which it may refuse.
    pub fn reserve(queue: &Queue, shape: ArenaShape) -> Result<Self> {
        let plan = ArenaPlan::new::<T>(shape, granularity(queue)?)?;
        let table = plan.page_table();
        let all_pages = queue.upload(&table)?;
        let mut page_table = queue.alloc(table.len())?;
        queue.fill_bytes(0xFF, &mut page_table.view_mut())?;
        let range = reserve_range(queue, &plan)?;
        let mapper = Mapper::start(plan, range.clone())?;
        let holes = Holes { layout: *plan.layout(), page_table: page_table.view().address() };
        let named = vec![0; plan.shape().n_slots as usize];
        let queue = queue.clone();
        let element = PhantomData;
        Ok(Self { mapper, range, queue, plan, page_table, all_pages, holes, named, element })
    }

    /// Where everything lies.
    pub fn plan(&self) -> &ArenaPlan {
        &self.plan
    }

    /// The layout of each layer's view.
    pub fn layout(&self) -> &KvLayout {
        self.plan.layout()
    }

    /// Makes room for a slot's first `n_tokens` tokens; what it has beyond stays. Work queued after it finds them. Where
    /// the memory is mapped, nobody waits; else it is mapped now, first from what is spare. Only where the device or the
    /// limit is short, it also waits for the work of slots that were released.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) for no slot or too many tokens; [`Error::ArenaFull`](crate::Error::ArenaFull); [`Error::Driver`](crate::Error::Driver), also where the stream is
    /// being captured. The slot is then what it was, and another try goes on where this one failed.
    pub fn grow(&mut self, slot: u64, n_tokens: u64) -> Result<()> {
        let (owner, n_steps) = self.check(slot, n_tokens)?;
        if n_steps <= self.named[owner] {
            return Ok(());
        }
        self.queue.check_not_captured("KvArena::grow")?;
        self.mapper.claim(owner, n_steps)?;
        let (from, to) = self.entries(owner, self.named[owner], n_steps);
        let pages = self.all_pages.view().slice(from..to)?;
        self.queue.copy(&pages, &mut self.page_table.view_mut().slice_mut(from..to)?)?;
        self.named[owner] = n_steps;
        Ok(())
    }

    /// Lets memory for a slot's first `n_tokens` tokens be mapped meanwhile, and waits for nothing. The slot does not grow
    /// by it: `grow` does, and finds it done or waits for the rest. It takes no memory that other slots have ahead.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) for no slot or too many tokens.
    pub fn grow_ahead(&mut self, slot: u64, n_tokens: u64) -> Result<()> {
        let (owner, n_steps) = self.check(slot, n_tokens)?;
        self.mapper.ask_ahead(owner, n_steps);
        Ok(())
    }

    /// Lets go what a slot has beyond its first `n_tokens` tokens, as rejected speculation or eviction leaves it. Its
    /// memory goes elsewhere at the earliest when the work queued before has ended.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) for no slot or too many tokens; [`Error::Driver`](crate::Error::Driver), also where the stream is being captured. Memory
    /// is then not let go, and another try does it.
    pub fn shrink(&mut self, slot: u64, n_tokens: u64) -> Result<()> {
        let (owner, n_steps) = self.check(slot, n_tokens)?;
        let found = self.mapper.status().slots[owner];
        if n_steps < found.live.max(self.named[owner]) {
            self.queue.check_not_captured("KvArena::shrink")?;
            if n_steps < self.named[owner] {
                let (from, to) = self.entries(owner, n_steps, self.named[owner]);
                let mut view = self.page_table.view_mut();
                self.queue.fill_bytes(0xFF, &mut view.slice_mut(from..to)?)?;
                self.named[owner] = n_steps;
            }
            self.range.mark(owner)?;
        }
        if n_steps < found.live.max(found.ahead) {
            self.mapper.let_go(owner, n_steps);
        }
        Ok(())
    }

    /// Lets go all that a slot has, so that another request may have it.
    ///
    /// # Errors
    /// Those of [`shrink`](Self::shrink).
    pub fn release(&mut self, slot: u64) -> Result<()> {
        self.shrink(slot, 0)
    }

    /// Tokens that a slot has room for now.
    pub fn capacity(&self, slot: u64) -> u64 {
        let named = usize::try_from(slot).ok().and_then(|slot| self.named.get(slot));
        named.map_or(0, |n_steps| self.plan.tokens_of(*n_steps))
    }

    /// Whether memory for a slot's first `n_tokens` tokens is mapped, so that `grow` would wait for nothing.
    pub fn is_ready(&self, slot: u64, n_tokens: u64) -> bool {
        self.check(slot, n_tokens)
            .is_ok_and(|(owner, n_steps)| n_steps <= self.mapper.status().slots[owner].ready)
    }

    /// Makes memory, so that at least `n_bytes` are idle: growing then only maps.
    ///
    /// # Errors
    /// [`Error::ArenaFull`](crate::Error::ArenaFull), [`Error::Driver`](crate::Error::Driver). What was made stays idle.
    pub fn stock(&mut self, n_bytes: u64) -> Result<()> {
        self.mapper.stock(n_bytes.div_ceil(self.plan.chunk_bytes()))
    }

    /// Gives memory back to the device: all that slots let go, after a wait for the work that used it, and all that is idle
    /// but for `n_bytes`. What is ahead stays. Returns how many bytes went.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver). What did not go is still there.
    pub fn trim(&mut self, n_bytes: u64) -> Result<u64> {
        let n_chunks = self.mapper.trim(n_bytes.div_ceil(self.plan.chunk_bytes()))?;
        Ok(n_chunks * self.plan.chunk_bytes())
    }

    /// What there is now; the thread may have more a moment later.
    pub fn stats(&self) -> ArenaStats {
        let status = self.mapper.status();
        let step_bytes = self.plan.step_bytes();
        let sum = |of: fn(&mapper::SlotStatus) -> u64| status.slots.iter().map(of).sum::<u64>();
        let live_bytes = sum(|slot| slot.live) * step_bytes;
        ArenaStats {
            reserved_bytes: self.plan.reserved_bytes(),
            live_bytes,
            spare_bytes: status.n_mapped * self.plan.chunk_bytes() - live_bytes,
            idle_bytes: status.n_idle * self.plan.chunk_bytes(),
            awaited_bytes: sum(|slot| slot.ahead.saturating_sub(slot.ready)) * step_bytes,
            n_failed_ahead: status.n_failed_ahead,
        }
    }

    /// A layer's cache, for reading: requests are slots. Its pools go only where this layout and this page table go with
    /// them, and [`Error::Holes`](crate::Error::Holes) is what else comes of them.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) for no layer.
    pub fn view<'a>(&'a self, layer: u64, lengths: View<'a, u32>) -> Result<KvView<'a, T>> {
        let [keys, values] = self.pools(layer)?;
        let (len, origin) = (self.layout().pool_len() as usize, self.queue.origin());
        // SAFETY: what the page table names is mapped until work queued before it changes has ended; the lifetimes are
        // the arena's.
        #[allow(unsafe_code)]
        let [keys, values] = [keys, values]
            .map(|address| unsafe { View::with_holes(address, len, origin, &self.holes) });
        Ok(KvView {
            layout: *self.layout(),
            keys,
            values: Some(values),
            page_table: self.page_table.view(),
            lengths,
            key_scale: 1.0,
            value_scale: 1.0,
        })
    }

    /// A layer's cache, for writing.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) for no layer.
    pub fn view_mut<'a>(
        &'a mut self,
        layer: u64,
        lengths: View<'a, u32>,
    ) -> Result<KvViewMut<'a, T>> {
        let [keys, values] = self.pools(layer)?;
        let (len, origin) = (self.layout().pool_len() as usize, self.queue.origin());
        // SAFETY: as in `view`; rows of keys and of values are different ones, though their pools lie in each other.
        #[allow(unsafe_code)]
        let [keys, values] = [keys, values]
            .map(|address| unsafe { ViewMut::with_holes(address, len, origin, &self.holes) });
        Ok(KvViewMut {
            layout: *self.layout(),
            keys,
            values: Some(values),
            page_table: self.page_table.view(),
            lengths,
        })
    }

    /// `[n_slots, table_stride]`, the pages that are there: an entry of the others is -1.
    pub fn page_table(&self) -> View<'_, i32> {
        self.page_table.view()
    }

    /// Where the pools of a layer's keys and values begin.
    pub(crate) fn pools(&self, layer: u64) -> Result<[u64; 2]> {
        check_below("layer", layer, self.plan.shape().n_layers, "the layers of the arena")?;
        Ok(self.plan.pool_offsets(layer).map(|offset| self.range.address() + offset))
    }

    fn check(&self, slot: u64, n_tokens: u64) -> Result<(usize, u64)> {
        let shape = self.plan.shape();
        check_below("slot", slot, shape.n_slots, "the slots of the arena")?;
        let allowed = "what the arena was reserved for";
        check_below("tokens of a slot", n_tokens, shape.max_tokens + 1, allowed)?;
        Ok((slot as usize, self.plan.steps_of(n_tokens)))
    }

    /// Entries of the page table that steps name.
    fn entries(&self, owner: usize, from: u64, to: u64) -> (usize, usize) {
        let start = owner as u64 * self.layout().shape().table_stride;
        let [from, to] = [from, to].map(|n_steps| (start + self.plan.pages_of(n_steps)) as usize);
        (from, to)
    }
}

fn granularity(queue: &Queue) -> Result<u64> {
    match queue.inner {
        #[cfg(feature = "cuda")]
        Inner::Cuda(ref stream) => stream.device().granularity(),
        #[cfg(feature = "simt")]
        Inner::Simt(_) => Ok(HostRange::GRANULARITY),
    }
}

fn reserve_range(queue: &Queue, plan: &ArenaPlan) -> Result<Arc<dyn Physical>> {
    let (n_bytes, chunk_bytes) = (plan.reserved_bytes(), plan.chunk_bytes());
    Ok(match queue.inner {
        #[cfg(feature = "cuda")]
        Inner::Cuda(ref stream) => {
            let n_slots = plan.shape().n_slots as usize;
            Arc::new(AddressRange::reserve(stream, n_bytes, chunk_bytes, n_slots)?)
        }
        #[cfg(feature = "simt")]
        Inner::Simt(_) => Arc::new(HostRange::reserve(n_bytes, chunk_bytes)?),
    })
}
