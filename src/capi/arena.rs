//! Caches that grow where they are.
//!
//! Parts of their memory are not there, and only what a page table names is. Views of it have their arena's number as a mark, which goes with them
//! as [`Holes`](crate::buffer::Holes) go with views in Rust: a cache takes them in the arena's own layout and with its own page table, and nothing else does.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::abi::{
    borrow, check_optional, check_reserved, free, give, lacuna_header, or, read, structs, variable,
    write,
};
use super::device::lacuna_queue;
use super::dtype::{self, with_cached};
use super::kv::{lacuna_kv, lacuna_kv_mut, lacuna_kv_shape};
use super::status::{Failure, Outcome, answer, lacuna_status};
use super::view::{lacuna_view, lacuna_view_mut};
use crate::Error;
use crate::buffer::Holes;
use crate::element::{E4m3, E5m2, Element};
use crate::kv::{ArenaShape, KvArena, KvLayout, Packing, PageOrder};

/// What one chunk of physical memory holds of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_packing {
    /// Keys and values of all layers, so that a slot grows by one chunk at a time.
    LACUNA_PACKING_LAYERS_TOGETHER = 0,
    /// Keys or values of one layer, so that one layer's pages follow each other, and a slot's least is `2 * n_layers` chunks.
    LACUNA_PACKING_LAYERS_APART = 1,
}

/// Sizes of an arena.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_arena_shape {
    pub header: lacuna_header,
    /// Requests that have a place at once: the batch of every cache of the arena.
    pub n_slots: u64,
    /// The most tokens of a slot.
    pub max_tokens: u64,
    /// Layers of the model; 0 is 1.
    pub n_layers: u64,
    /// Heads of keys and values.
    pub n_heads: u64,
    /// Elements of a row: the head's dimension.
    pub row_len: u64,
    /// Tokens of a page, 1 to 256; 0 is 16.
    pub page_size: u64,
    /// Bytes of physical memory that come and go together, rounded up to the device's granularity; 0 is that.
    pub chunk_bytes: u64,
    /// The most bytes of physical memory that the arena ever has; 0 is what the device has.
    pub limit_bytes: u64,
    /// The type of keys and values: bf16, f16, e4m3 or e5m2.
    pub dtype: u32,
    /// `LACUNA_KV_NHD` or `LACUNA_KV_HND`; 0 is the first.
    pub order: u32,
    /// A `lacuna_packing`.
    pub packing: u32,
    /// 0.
    pub reserved: u32,
}

/// Bytes of an arena.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_arena_stats {
    pub header: lacuna_header,
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
    /// How often growing ahead found no memory, or a driver's error. `lacuna_arena_grow` tries again, and says why.
    pub n_failed_ahead: u64,
    /// Bytes of physical memory that come and go together.
    pub chunk_bytes: u64,
    /// Bytes by which a slot grows.
    pub step_bytes: u64,
}

structs! {
    lacuna_arena_shape: 88,
    lacuna_arena_stats: 72,
}

/// Keys and values of all layers, of several requests, each of which grows without moving. Used by one call at a time.
pub struct lacuna_arena {
    arena: Typed,
    /// What views are marked with.
    number: u32,
}

enum Typed {
    Bf16(KvArena<half::bf16>),
    F16(KvArena<half::f16>),
    E4m3(KvArena<E4m3>),
    E5m2(KvArena<E5m2>),
}

macro_rules! typed {
    ($($name:ident($type:ty)),+) => {
        $(
            impl From<KvArena<$type>> for Typed {
                fn from(arena: KvArena<$type>) -> Self {
                    Self::$name(arena)
                }
            }
        )+
    };
}

typed! { Bf16(half::bf16), F16(half::f16), E4m3(E4m3), E5m2(E5m2) }

/// Runs an expression with an arena of each type.
macro_rules! with {
    ($typed:expr, $arena:ident => $body:expr) => {
        match $typed {
            Typed::Bf16($arena) => $body,
            Typed::F16($arena) => $body,
            Typed::E4m3($arena) => $body,
            Typed::E5m2($arena) => $body,
        }
    };
}

/// The arenas that there are, by number.
struct Known {
    last: u32,
    arenas: BTreeMap<u32, Holes>,
}

static KNOWN: Mutex<Known> = Mutex::new(Known { last: 0, arenas: BTreeMap::new() });

fn known() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refuses memory of an arena but as a cache of its layout and with its table.
pub(super) fn check(
    what: &'static str,
    number: u32,
    layout: &KvLayout,
    page_table: u64,
) -> Outcome {
    if known().arenas.get(&number) == Some(&Holes { layout: *layout, page_table }) {
        return Ok(());
    }
    Err(refuse(what, number))
}

/// Why a view that is marked is none that a function takes.
pub(super) fn refuse(what: &'static str, number: u32) -> Failure {
    if known().arenas.contains_key(&number) {
        return Error::Holes { what }.into();
    }
    let message =
        format!("reserved of {what} is {number}, and neither 0 nor of an arena that there is");
    Failure::new(lacuna_status::LACUNA_ABI, message)
}

impl Drop for lacuna_arena {
    fn drop(&mut self) {
        known().arenas.remove(&self.number);
    }
}

impl lacuna_arena {
    fn new(queue: &lacuna_queue, shape: &lacuna_arena_shape) -> Outcome<Self> {
        check_reserved("lacuna_arena_shape", shape.reserved)?;
        let page_order = match shape.order {
            0 | 1 => PageOrder::Nhd,
            2 => PageOrder::Hnd,
            order => {
                let numbers = "lacuna_kv_order of an arena";
                return Err(Failure::number("order of an arena", order, numbers));
            }
        };
        let packing = match shape.packing {
            0 => Packing::LayersTogether,
            1 => Packing::LayersApart,
            packing => return Err(Failure::number("packing", packing, "lacuna_packing")),
        };
        let usual = ArenaShape::default();
        let arena_shape = ArenaShape {
            n_slots: shape.n_slots,
            max_tokens: shape.max_tokens,
            n_layers: or(shape.n_layers, usual.n_layers),
            n_heads: shape.n_heads,
            row_len: shape.row_len,
            page_size: or(shape.page_size, usual.page_size),
            page_order,
            packing,
            chunk_bytes: shape.chunk_bytes,
            limit_bytes: (shape.limit_bytes > 0).then_some(shape.limit_bytes),
        };
        let arena = with_cached!(shape.dtype, "an arena", T => {
            Ok(Typed::from(KvArena::<T>::reserve(&queue.0, arena_shape)?))
        })?;
        let holes = with!(&arena, arena => Holes {
            layout: *arena.layout(),
            page_table: arena.page_table().address(),
        });
        let mut known = known();
        let number = known.last.checked_add(1).ok_or(Error::Range {
            what: "arenas of a process",
            value: known.last.into(),
            allowed: "0..2^32 - 1",
        })?;
        known.last = number;
        known.arenas.insert(number, holes);
        drop(known);
        Ok(Self { arena, number })
    }

    fn kv_shape(&self) -> lacuna_kv_shape {
        fn dtype_of<T: Element>(_: &KvArena<T>) -> u32 {
            dtype::number::<T>()
        }
        let (shape, dtype) =
            with!(&self.arena, arena => (*arena.layout().shape(), dtype_of(arena)));
        lacuna_kv_shape {
            header: lacuna_header::NONE,
            batch: shape.batch,
            n_heads: shape.n_heads,
            row_len: shape.row_len,
            n_pages: shape.n_pages,
            page_size: shape.page_size,
            table_stride: shape.table_stride,
            tokens_per_row: shape.tokens_per_row,
            page_stride: shape.page_stride,
            token_stride: shape.token_stride,
            head_stride: shape.head_stride,
            dtype,
            order: 0,
            is_fused: 0,
            reserved: 0,
        }
    }

    /// Keys, values and the page table of a layer, marked.
    fn views(&self, layer: u64) -> Outcome<([lacuna_view_mut; 2], lacuna_view)> {
        let dtype = self.kv_shape().dtype;
        with!(&self.arena, arena => {
            let len = arena.layout().pool_len();
            let pools = arena.pools(layer)?.map(|address| lacuna_view_mut {
                data: std::ptr::with_exposed_provenance_mut::<c_void>(address as usize),
                len,
                dtype,
                reserved: self.number,
            });
            Ok((pools, lacuna_view::new(&arena.page_table())))
        })
    }
}

fn read_only(view: lacuna_view_mut) -> lacuna_view {
    let lacuna_view_mut { data, len, dtype, reserved } = view;
    lacuna_view { data: data.cast_const(), len, dtype, reserved }
}

/// Reserves addresses on a queue's device for every slot's most tokens; no memory, but for two page tables of 4 bytes a page. To kernels
/// the arena is a paged cache whose addresses, shape and page table's place never change, so that graphs which were captured once stay right
/// while it grows: rows past what a slot has are absent, whatever lengths say.
///
/// A thread of its own maps memory. Not for a captured stream. What rows hold before they are written is unspecified: it may be what
/// another slot let go. All work with the arena is in the order of the queue's stream, which must outlive the arena; the queue need not.
/// `lacuna::kv::KvArena` says all of it.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_RANGE`; `LACUNA_DRIVER`, also where the device has no virtual memory
/// management.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_arena_reserve(
    queue: *const lacuna_queue,
    shape: *const lacuna_arena_shape,
    arena: *mut *mut lacuna_arena,
) -> lacuna_status {
    // SAFETY: the caller's handle, struct and variable.
    answer(|| unsafe {
        give("arena", arena, || lacuna_arena::new(borrow("queue", queue)?, &read(shape)?))
    })
}

/// Ends an arena: waits for its stream's work, and gives all memory back; null is nothing. Where that wait fails, as while the stream is
/// being captured, the memory is kept for good.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_arena_free(arena: *mut lacuna_arena) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(arena) }
}

/// The shape of every layer's cache, for plans: requests are slots.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_arena_kv_shape(
    arena: *const lacuna_arena,
    shape: *mut lacuna_kv_shape,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(shape, &borrow("arena", arena)?.kv_shape()) })
}

/// A layer's cache, for reading: sets `keys`, `values` and `page_table`, and leaves lengths and scales alone. The addresses are the same for as
/// long as the arena lives.
///
/// Parts of the memory are not there, so that its views are marked: they go with this page table into functions that take a cache, of
/// plans of the shape that `lacuna_arena_kv_shape` gives, and are LACUNA_WRONG_QUEUE elsewhere.
///
/// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for a layer that there is not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_arena_kv(
    arena: *const lacuna_arena,
    layer: u64,
    cache: *mut lacuna_kv,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let ([keys, values], page_table) = borrow("arena", arena)?.views(layer)?;
        let cache = variable("cache", cache)?;
        (cache.keys, cache.values) = (read_only(keys), read_only(values));
        cache.page_table = page_table;
        Ok(())
    })
}

/// The same for writing.
///
/// Errors: those of `lacuna_arena_kv`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_arena_kv_mut(
    arena: *mut lacuna_arena,
    layer: u64,
    cache: *mut lacuna_kv_mut,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let ([keys, values], page_table) = borrow("arena", arena)?.views(layer)?;
        let cache = variable("cache", cache)?;
        (cache.keys, cache.values) = (keys, values);
        cache.page_table = page_table;
        Ok(())
    })
}

/// Makes room for a slot's first `n_tokens` tokens; what it has beyond stays. Work queued after it finds them. Where the memory is mapped, nobody waits;
/// else it is mapped now.
///
/// One small copy where the page table changes; refused while the stream is being captured.
///
/// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for no slot or too many tokens; `LACUNA_OUT_OF_MEMORY`, `LACUNA_DRIVER`: the slot is then what it
/// was, and another try goes on where this one failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_arena_grow(
    arena: *mut lacuna_arena,
    slot: u64,
    n_tokens: u64,
) -> lacuna_status {
    // SAFETY: the caller's handle.
    answer(|| unsafe {
        with!(&mut variable("arena", arena)?.arena, arena => Ok(arena.grow(slot, n_tokens)?))
    })
}

/// Lets memory for a slot's first `n_tokens` tokens be mapped meanwhile, and waits for nothing. The slot does not grow by it:
/// `lacuna_arena_grow` does.
///
/// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for no slot or too many tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_arena_grow_ahead(
    arena: *mut lacuna_arena,
    slot: u64,
    n_tokens: u64,
) -> lacuna_status {
    // SAFETY: the caller's handle.
    answer(|| unsafe {
        with!(&mut variable("arena", arena)?.arena, arena => Ok(arena.grow_ahead(slot, n_tokens)?))
    })
}

/// Lets go what a slot has beyond its first `n_tokens` tokens: 0 where its request ends, so that another may have the slot. Its memory stays
/// mapped for whoever grows next, and goes elsewhere at the earliest when the work queued before has ended.
///
/// One small fill where the page table changes; refused while the stream is being captured.
///
/// Errors: `LACUNA_NULL`; `LACUNA_RANGE` for no slot or too many tokens; `LACUNA_DRIVER`: memory is then not let go, and another try does
/// it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_arena_shrink(
    arena: *mut lacuna_arena,
    slot: u64,
    n_tokens: u64,
) -> lacuna_status {
    // SAFETY: the caller's handle.
    answer(|| unsafe {
        with!(&mut variable("arena", arena)?.arena, arena => Ok(arena.shrink(slot, n_tokens)?))
    })
}

/// Lets go all that a slot has, so that another request may have it: `lacuna_arena_shrink` to no tokens.
///
/// Errors: those of `lacuna_arena_shrink`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_arena_release(
    arena: *mut lacuna_arena,
    slot: u64,
) -> lacuna_status {
    // SAFETY: the caller's handle.
    answer(|| unsafe {
        with!(&mut variable("arena", arena)?.arena, arena => Ok(arena.release(slot)?))
    })
}

/// Tokens that a slot has room for now; 0 of no slot.
///
/// Errors: `LACUNA_NULL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_arena_capacity(
    arena: *const lacuna_arena,
    slot: u64,
    n_tokens: *mut u64,
) -> lacuna_status {
    // SAFETY: the caller's handle and variable.
    answer(|| unsafe {
        let arena = borrow("arena", arena)?;
        *variable("n_tokens", n_tokens)? = with!(&arena.arena, arena => arena.capacity(slot));
        Ok(())
    })
}

/// Whether memory for a slot's first `n_tokens` tokens is mapped, so that `lacuna_arena_grow` would wait for nothing: 1, else 0.
///
/// Errors: `LACUNA_NULL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_arena_is_ready(
    arena: *const lacuna_arena,
    slot: u64,
    n_tokens: u64,
    is_ready: *mut u32,
) -> lacuna_status {
    // SAFETY: the caller's handle and variable.
    answer(|| unsafe {
        let arena = borrow("arena", arena)?;
        let found = with!(&arena.arena, arena => arena.is_ready(slot, n_tokens));
        *variable("is_ready", is_ready)? = u32::from(found);
        Ok(())
    })
}

/// Makes memory, so that at least `n_bytes` are idle: growing then only maps.
///
/// Errors: `LACUNA_NULL`, `LACUNA_OUT_OF_MEMORY`, `LACUNA_DRIVER`. What was made stays idle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_arena_stock(
    arena: *mut lacuna_arena,
    n_bytes: u64,
) -> lacuna_status {
    // SAFETY: the caller's handle.
    answer(|| unsafe {
        with!(&mut variable("arena", arena)?.arena, arena => Ok(arena.stock(n_bytes)?))
    })
}

/// Gives memory back to the device: all that slots let go, after a wait for the work that used it, and all that is idle but for `n_bytes`. What is
/// ahead stays. `n_freed`, where it is not null, is set to how many bytes went.
///
/// Errors: `LACUNA_NULL`, `LACUNA_DRIVER`. What did not go is still there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_arena_trim(
    arena: *mut lacuna_arena,
    n_bytes: u64,
    n_freed: *mut u64,
) -> lacuna_status {
    // SAFETY: the caller's handle and variable.
    answer(|| unsafe {
        check_optional("n_freed", n_freed)?;
        let found = with!(&mut variable("arena", arena)?.arena, arena => arena.trim(n_bytes))?;
        if !n_freed.is_null() {
            *variable("n_freed", n_freed)? = found;
        }
        Ok(())
    })
}

/// What there is now; the arena's thread may have more a moment later.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_arena_read_stats(
    arena: *const lacuna_arena,
    stats: *mut lacuna_arena_stats,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe {
        let arena = borrow("arena", arena)?;
        let (found, plan) = with!(&arena.arena, arena => (arena.stats(), *arena.plan()));
        let found = lacuna_arena_stats {
            header: lacuna_header::NONE,
            reserved_bytes: found.reserved_bytes,
            live_bytes: found.live_bytes,
            spare_bytes: found.spare_bytes,
            idle_bytes: found.idle_bytes,
            awaited_bytes: found.awaited_bytes,
            n_failed_ahead: found.n_failed_ahead,
            chunk_bytes: plan.chunk_bytes(),
            step_bytes: plan.step_bytes(),
        };
        write(stats, &found)
    })
}
