//! Where everything of an arena lies: arithmetic alone.

use crate::element::Float;
use crate::error::check_below;
use crate::kv::{KvLayout, KvShape, check_between};
use crate::{Error, Result};

/// How rows lie in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PageOrder {
    /// `[page_size, n_heads, row_len]`: a token's heads are together.
    #[default]
    Nhd,
    /// `[n_heads, page_size, row_len]`: a head's tokens are together.
    Hnd,
}

/// What one chunk of physical memory holds of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Packing {
    /// A page has keys and values of all layers, `[n_layers, 2, ...]`, so that a slot grows by one chunk at a time:
    /// with 32 layers, 8 heads of 128 bf16 and pages of 16 tokens a page is 2 MiB, which is what a token more costs at
    /// worst.
    #[default]
    LayersTogether,
    /// Keys and values of each layer are ranges of their own, and each grows by a chunk: one layer's pages follow each
    /// other, so that a kernel touches as few of the device's pages as can be, and a slot's least is
    /// `2 * n_layers` chunks.
    LayersApart,
}

/// Sizes of an arena; [`ArenaPlan::new`] says what is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaShape {
    /// Requests that have a place at once.
    pub n_slots: u64,
    /// The most tokens of a slot.
    pub max_tokens: u64,
    /// Layers of the model.
    pub n_layers: u64,
    /// Heads of keys and values.
    pub n_heads: u64,
    /// Elements of a row: the head's dimension.
    pub row_len: u64,
    /// Tokens of a page.
    pub page_size: u64,
    /// How rows lie in a page.
    pub page_order: PageOrder,
    /// What a chunk holds.
    pub packing: Packing,
    /// Bytes of physical memory that come and go together, rounded up to the device's granularity, and 0 is that.
    /// Larger ones are fewer driver calls, and more memory that a slot has and does not need.
    pub chunk_bytes: u64,
    /// The most bytes of physical memory that the arena ever has; `None` is what the device has.
    pub limit_bytes: Option<u64>,
}

impl Default for ArenaShape {
    /// Of nothing, in pages of 16 tokens.
    fn default() -> Self {
        Self {
            n_slots: 0,
            max_tokens: 0,
            n_layers: 1,
            n_heads: 0,
            row_len: 0,
            page_size: 16,
            page_order: PageOrder::Nhd,
            packing: Packing::LayersTogether,
            chunk_bytes: 0,
            limit_bytes: None,
        }
    }
}

/// An [`ArenaShape`] that was found sound, on a device of some granularity.
///
/// The addresses are `[n_lanes, n_slots, slot_bytes]`: one lane where layers are packed together, else `2 * n_layers`.
/// A slot's pages follow each other from its first byte on, and its chunks too; its size is a multiple of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaPlan {
    shape: ArenaShape,
    layout: KvLayout,
    chunk_bytes: u64,
    page_bytes: u64,
    slot_bytes: u64,
    n_lanes: u64,
}

impl ArenaPlan {
    /// An arena of elements `T` where physical memory comes in multiples of `granularity` bytes.
    ///
    /// # Errors
    /// [`Error::Range`] for what is not supported, everything that [`KvLayout::new`] refuses among it.
    pub fn new<T: Float>(shape: ArenaShape, granularity: u64) -> Result<Self> {
        let element_bytes = size_of::<T>() as u64;
        check_between("slots", shape.n_slots, (1 << 16) - 1, "1..65536")?;
        check_between("tokens of a slot", shape.max_tokens, 1 << 26, "1..=2^26")?;
        check_between("layers", shape.n_layers, 1 << 12, "1..=4096")?;
        check_between("rows of a page", shape.page_size, 256, "1..=256")?;
        check_between("heads of keys", shape.n_heads, (1 << 16) - 1, "1..65536")?;
        check_between("elements of a row", shape.row_len, 1024, "1..=1024")?;
        check_between("bytes of a device's granularity", granularity, 1 << 40, "1..=2^40")?;
        check_below("bytes of a chunk", shape.chunk_bytes, (1 << 40) + 1, "0..=2^40")?;
        let chunk_bytes = shape.chunk_bytes.max(1).next_multiple_of(granularity);
        let kv = KvShape {
            batch: shape.n_slots,
            n_heads: shape.n_heads,
            row_len: shape.row_len,
            page_size: shape.page_size,
            table_stride: shape.max_tokens.div_ceil(shape.page_size),
            ..KvShape::default()
        };
        let kv = match shape.page_order {
            PageOrder::Nhd => kv.nhd(),
            PageOrder::Hnd => kv.hnd(),
        };
        let (n_lanes, pages_together) = match shape.packing {
            Packing::LayersTogether => (1, 2 * shape.n_layers),
            Packing::LayersApart => (2 * shape.n_layers, 1),
        };
        // Rows of a page, heads, elements of a row, pools and bytes of an element: 2^(9 + 16 + 11 + 13 + 3) at most.
        let page_stride = kv.page_stride * pages_together;
        let page_bytes = page_stride * element_bytes;
        let pages = chunk_bytes / gcd(chunk_bytes, page_bytes);
        let too_large = |value| Error::Range {
            what: "bytes of a slot",
            value,
            allowed: "what 2^47 bytes of addresses hold of all slots",
        };
        let slot_pages = kv.table_stride.next_multiple_of(pages);
        let slot_bytes = slot_pages.checked_mul(page_bytes).ok_or_else(|| too_large(u64::MAX))?;
        let reserved = slot_bytes.checked_mul(n_lanes * shape.n_slots);
        reserved.filter(|n| *n <= 1 << 47).ok_or_else(|| too_large(slot_bytes))?;
        let n_pages = slot_pages.saturating_mul(shape.n_slots);
        let layout = KvLayout::new(KvShape { n_pages, page_stride, ..kv })?;
        Ok(Self { shape, layout, chunk_bytes, page_bytes, slot_bytes, n_lanes })
    }

    /// What it was made from.
    pub fn shape(&self) -> &ArenaShape {
        &self.shape
    }

    /// The layout of every layer: slot `b`'s pages are those from `b * slot_pages` on.
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Bytes of addresses.
    pub fn reserved_bytes(&self) -> u64 {
        self.n_lanes * self.shape.n_slots * self.slot_bytes
    }

    /// Bytes of physical memory that come and go together.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// Bytes by which a slot grows: a chunk of each lane.
    pub fn step_bytes(&self) -> u64 {
        self.n_lanes * self.chunk_bytes
    }

    /// Ranges of addresses in which a slot has a place.
    pub fn n_lanes(&self) -> u64 {
        self.n_lanes
    }

    /// Pages of a slot's addresses, with those past its last token.
    pub fn slot_pages(&self) -> u64 {
        self.slot_bytes / self.page_bytes
    }

    /// Steps that a slot of so many tokens has.
    pub fn steps_of(&self, n_tokens: u64) -> u64 {
        let n_tokens = n_tokens.min(self.shape.max_tokens);
        (n_tokens.div_ceil(self.shape.page_size) * self.page_bytes).div_ceil(self.chunk_bytes)
    }

    /// Pages that so many steps hold whole, up to those of the most tokens.
    pub fn pages_of(&self, n_steps: u64) -> u64 {
        (n_steps.saturating_mul(self.chunk_bytes) / self.page_bytes)
            .min(self.layout.shape().table_stride)
    }

    /// Tokens that so many steps hold.
    pub fn tokens_of(&self, n_steps: u64) -> u64 {
        (self.pages_of(n_steps) * self.shape.page_size).min(self.shape.max_tokens)
    }

    /// Where the pools of a layer's keys and values begin, in bytes from the first.
    pub(crate) fn pool_offsets(&self, layer: u64) -> [u64; 2] {
        let of_pool = match self.shape.packing {
            Packing::LayersTogether => self.page_bytes / (2 * self.shape.n_layers),
            Packing::LayersApart => self.shape.n_slots * self.slot_bytes,
        };
        [2 * layer * of_pool, (2 * layer + 1) * of_pool]
    }

    /// Where a chunk of a slot begins, in bytes from the first.
    pub(crate) fn chunk_offset(&self, lane: u64, slot: u64, step: u64) -> u64 {
        (lane * self.shape.n_slots + slot) * self.slot_bytes + step * self.chunk_bytes
    }

    /// The pages of all slots, were all of them there: `[n_slots, table_stride]`.
    pub(crate) fn page_table(&self) -> Vec<i32> {
        let pages = |b| (0..self.layout.shape().table_stride).map(move |p| (b, p));
        let page = |(b, p)| (b * self.slot_pages() + p) as i32;
        (0..self.shape.n_slots).flat_map(pages).map(page).collect()
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    const LLAMA: ArenaShape = ArenaShape {
        n_slots: 64,
        max_tokens: 1 << 17,
        n_layers: 32,
        n_heads: 8,
        row_len: 128,
        page_size: 16,
        page_order: PageOrder::Nhd,
        packing: Packing::LayersTogether,
        chunk_bytes: 0,
        limit_bytes: None,
    };
    const MIB: u64 = 1 << 20;

    #[test]
    fn what_a_token_more_costs() {
        let together = ArenaPlan::new::<bf16>(LLAMA, 2 * MIB).unwrap();
        assert_eq!(together.step_bytes(), 2 * MIB);
        assert_eq!([0, 1, 16, 17].map(|n| together.steps_of(n)), [0, 1, 1, 2]);
        assert_eq!(together.reserved_bytes(), 64 << 34);
        let shape = ArenaShape { packing: Packing::LayersApart, ..LLAMA };
        let apart = ArenaPlan::new::<bf16>(shape, 2 * MIB).unwrap();
        assert_eq!(apart.step_bytes(), 128 * MIB);
        assert_eq!([0, 1, 1024, 1025].map(|n| apart.steps_of(n)), [0, 1, 1, 2]);
        assert_eq!(apart.reserved_bytes(), together.reserved_bytes());
        assert_eq!(apart.tokens_of(1), 1024);
        let coarse = ArenaPlan::new::<bf16>(ArenaShape { chunk_bytes: 3 * MIB, ..LLAMA }, 2 * MIB);
        assert_eq!(coarse.unwrap().step_bytes(), 4 * MIB);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let refused = |shape, granularity| {
            ArenaPlan::new::<bf16>(shape, granularity).unwrap_err().to_string()
        };
        for (shape, message) in [
            (ArenaShape { n_slots: 0, ..LLAMA }, "slots: 0 is outside 1..65536"),
            (ArenaShape { max_tokens: 0, ..LLAMA }, "tokens of a slot: 0 is outside 1..=2^26"),
            (ArenaShape { n_layers: 0, ..LLAMA }, "layers: 0 is outside 1..=4096"),
            (ArenaShape { page_size: 257, ..LLAMA }, "rows of a page: 257 is outside 1..=256"),
            (ArenaShape { n_heads: 0, ..LLAMA }, "heads of keys: 0 is outside 1..65536"),
            (
                ArenaShape { row_len: 12, ..LLAMA },
                "elements of a row: 12 is outside the multiples of 8",
            ),
            (
                ArenaShape { chunk_bytes: 1 << 41, ..LLAMA },
                "bytes of a chunk: 2199023255552 is outside 0..=2^40",
            ),
            (
                ArenaShape { n_slots: 60_000, ..LLAMA },
                "bytes of a slot: 17179869184 is outside what 2^47 bytes of addresses hold of all \
                 slots",
            ),
        ] {
            assert_eq!(refused(shape, 2 * MIB), message);
        }
        assert_eq!(refused(LLAMA, 0), "bytes of a device's granularity: 0 is outside 1..=2^40");
    }

    fn shapes() -> impl Strategy<Value = ArenaShape> {
        let size = || prop_oneof![30 => 1_u64..70, 1 => 0_u64..2, 1 => any::<u64>()];
        let order = prop_oneof![Just(PageOrder::Nhd), Just(PageOrder::Hnd)];
        let packing = prop_oneof![Just(Packing::LayersTogether), Just(Packing::LayersApart)];
        let rows =
            (size(), prop_oneof![30 => (1_u64..20).prop_map(|n| 8 * n), 1 => any::<u64>()], size());
        (size(), size(), size(), rows, order, packing, size()).prop_map(
            |(n_slots, max_tokens, n_layers, rows, page_order, packing, chunk_bytes)| {
                let (n_heads, row_len, page_size) = rows;
                ArenaShape {
                    n_slots,
                    max_tokens,
                    n_layers,
                    n_heads,
                    row_len,
                    page_size,
                    page_order,
                    packing,
                    chunk_bytes,
                    limit_bytes: None,
                }
            },
        )
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "hundreds of cases")]
        fn no_numbers_make_it_panic(shape in shapes(), granularity in any::<u64>()) {
            let _ = ArenaPlan::new::<bf16>(shape, granularity);
        }

        /// Each row of each layer has a place of its own, in the chunks of its own slot, which the steps of its token
        /// count cover.
        #[test]
        #[cfg_attr(miri, ignore = "hundreds of cases")]
        fn rows_lie_in_their_slots_chunks(
            shape in shapes(),
            granularity in prop_oneof![1_u64..5000, Just(4096)],
            at in any::<[prop::sample::Index; 6]>(),
        ) {
            let Ok(plan) = ArenaPlan::new::<bf16>(shape, granularity) else { return Ok(()) };
            prop_assume!(plan.layout().table_len() < 1 << 16);
            let pick = |i: usize, n: u64| at[i].index(n as usize) as u64;
            let (slot, t) = (pick(0, shape.n_slots), pick(1, shape.max_tokens));
            let (layer, h) = (pick(2, shape.n_layers), pick(3, shape.n_heads));
            let is_value = pick(4, 2) as usize;
            let table = plan.page_table();
            let row = plan.layout().locate(&table, slot, t, h).unwrap() as u64 * 2;
            let first = plan.pool_offsets(layer)[is_value] + row;
            let last = first + 2 * shape.row_len - 1;
            let lane = pick(5, plan.n_lanes());
            let lane = match shape.packing {
                Packing::LayersTogether => lane,
                Packing::LayersApart => 2 * layer + is_value as u64,
            };
            let n_steps = plan.steps_of(t + 1);
            prop_assert!(first >= plan.chunk_offset(lane, slot, 0));
            prop_assert!(last < plan.chunk_offset(lane, slot, n_steps));
            prop_assert!(plan.chunk_offset(lane, slot, n_steps) <= plan.chunk_offset(lane, slot + 1, 0));
            prop_assert!(plan.pages_of(n_steps) * shape.page_size > t);
            prop_assert!(plan.tokens_of(n_steps) > t && plan.tokens_of(n_steps - 1) <= t);
            prop_assert!(last < plan.reserved_bytes());
            let pool = plan.pool_offsets(layer)[is_value] + 2 * plan.layout().pool_len();
            prop_assert!(pool <= plan.reserved_bytes());
            prop_assert_eq!(plan.chunk_offset(0, 1, 0) % granularity, 0);
        }

        /// No two rows share a byte.
        #[test]
        #[cfg_attr(miri, ignore = "hundreds of cases")]
        fn rows_do_not_overlap(
            n_slots in 1_u64..3, max_tokens in 1_u64..9, n_layers in 1_u64..3, n_heads in 1_u64..3,
            page_size in 1_u64..5, is_hnd: bool, is_apart: bool,
        ) {
            let page_order = if is_hnd { PageOrder::Hnd } else { PageOrder::Nhd };
            let packing = if is_apart { Packing::LayersApart } else { Packing::LayersTogether };
            let shape = ArenaShape {
                n_slots, max_tokens, n_layers, n_heads, row_len: 8, page_size, page_order, packing,
                ..ArenaShape::default()
            };
            let plan = ArenaPlan::new::<bf16>(shape, 48).unwrap();
            let table = plan.page_table();
            let mut starts = Vec::new();
            for layer in 0..n_layers {
                for pool in plan.pool_offsets(layer) {
                    for (b, t) in (0..n_slots).flat_map(|b| (0..max_tokens).map(move |t| (b, t))) {
                        for h in 0..n_heads {
                            let row = plan.layout().locate(&table, b, t, h).unwrap();
                            starts.push(pool + 2 * row as u64);
                        }
                    }
                }
            }
            starts.sort_unstable();
            prop_assert!(starts.windows(2).all(|pair| pair[0] + 16 <= pair[1]));
        }
    }
}
