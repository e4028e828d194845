//! Groups encoded where they are.

use half::bf16;

use super::{
    CompactCode, CompactGroup, CompactViewsMut, Counter, EncodePlan, nothing_measured, pack_codes,
    place_codes, upload_code,
};
use crate::Result;
use crate::buffer::{Buffer, View};
use crate::error::check_same;
use crate::huffman::indexed::{CodeTable, IndexedViews};
use crate::huffman::plan::check_range;
use crate::queue::Queue;

/// Encodes groups of one size in device memory, with a workspace of its own.
///
/// ```text
/// counts[e] = weights of exponent e       one launch, and the host waits for 256 words
/// code      = CompactCode::new(counts)    on the host
/// tensors   = encode(weights, code)       two launches
/// ```
#[derive(Debug)]
pub struct Encoder {
    counter: Counter,
    /// Of the group that was measured last.
    n_code_bytes: Option<u64>,
}

/// A code, and how long a group's stream is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// The smallest code of the group.
    pub code: CompactCode,
    /// Bytes of the group's codes.
    pub n_code_bytes: u64,
}

/// A compact group in device memory.
#[derive(Debug)]
pub struct DeviceCompact {
    /// `[n_code_bytes]`.
    pub codes: Buffer<u8>,
    /// `[n_elements]`.
    pub sign_mantissa: Buffer<u8>,
    /// `[n_granules / 32 + 1]`.
    pub tile_bytes: Buffer<u32>,
    /// `[n_granules + 1]`.
    pub granule_bits: Buffer<u16>,
    /// `[16640]`: the bytes of the code's [`CodeTable`].
    pub table: Buffer<u8>,
    /// The code, which the tensor `lengths` is of.
    pub code: CompactCode,
}

impl Encoder {
    /// For groups of `n_elements` weights.
    ///
    /// # Stream
    /// Two allocations, whose memory is zeroed.
    ///
    /// # Errors
    /// Those of [`EncodePlan::new`], and [`Error::Driver`](crate::Error::Driver) where memory is short.
    pub fn new(queue: &Queue, n_elements: u64) -> Result<Self> {
        Ok(Self { counter: Counter::new(queue, n_elements)?, n_code_bytes: None })
    }

    /// What it launches.
    pub fn plan(&self) -> &EncodePlan {
        self.counter.plan()
    }

    /// Counts a group's exponents, and makes its code.
    ///
    /// # Stream
    /// One launch, a copy of 2 KiB that the host waits for, and one of 1 KiB.
    ///
    /// # Errors
    /// Those of [`count_exponents`](super::count_exponents), and [`Error::Range`](crate::Error::Range) where codes have 2^32 bytes.
    pub fn measure(&mut self, queue: &Queue, weights: &View<'_, bf16>) -> Result<Measured> {
        self.n_code_bytes = None;
        let histogram = self.counter.count(queue, weights)?;
        let code = CompactCode::new(&histogram).expect("there are weights");
        let n_code_bytes = code.n_bits(&histogram).div_ceil(8);
        check_range("code bytes of a group", n_code_bytes, 1..1 << 32, "1..2^32")?;
        let plan = *self.plan();
        upload_code(queue, &plan, &code, &mut self.counter.workspace())?;
        self.n_code_bytes = Some(n_code_bytes);
        Ok(Measured { code, n_code_bytes })
    }

    /// Encodes the group that was measured last; `outputs.codes` has [`Measured::n_code_bytes`].
    ///
    /// `weights` are those that were measured, where they were or elsewhere. Of others nothing outside `outputs` is written, and what
    /// stands there is no group: decoders find it corrupt, or make other weights of it.
    ///
    /// # Numerics
    /// Bit for bit [`encode`](super::encode()).
    ///
    /// # Stream
    /// Two launches; no allocation, copy or synchronisation.
    ///
    /// # Errors
    /// Those of [`pack_codes`]; [`Error::Shape`](crate::Error::Shape) where `outputs.codes` has another length, and
    /// [`Error::Range`](crate::Error::Range) where nothing was measured. Where the second launch fails, nothing needs to be zeroed
    /// again.
    pub fn pack(
        &mut self,
        queue: &Queue,
        weights: &View<'_, bf16>,
        outputs: &mut CompactViewsMut<'_>,
    ) -> Result<()> {
        let n_code_bytes = self.n_code_bytes.ok_or_else(nothing_measured)?;
        check_same("codes", n_code_bytes, outputs.codes.len())?;
        let plan = *self.plan();
        place_codes(queue, &plan, &mut self.counter.workspace())?;
        pack_codes(queue, &plan, weights, &self.counter.workspace(), outputs)
    }

    /// Both, with memory for what comes of it.
    ///
    /// # Stream
    /// Those of [`measure`](Self::measure) and [`pack`](Self::pack), five allocations, and a copy of 16 KiB.
    ///
    /// # Errors
    /// Those of [`measure`](Self::measure) and [`pack`](Self::pack), and [`Error::Driver`](crate::Error::Driver) where memory is short.
    pub fn encode(&mut self, queue: &Queue, weights: &View<'_, bf16>) -> Result<DeviceCompact> {
        let Measured { code, n_code_bytes } = self.measure(queue, weights)?;
        let mut group = DeviceCompact {
            codes: queue.alloc(n_code_bytes as usize)?,
            sign_mantissa: queue.alloc(self.plan().n_elements() as usize)?,
            tile_bytes: queue.alloc(self.plan().tile_bytes_len() as usize)?,
            granule_bits: queue.alloc(self.plan().granule_bits_len() as usize)?,
            table: queue.upload(&code.table().to_bytes())?,
            code,
        };
        self.pack(queue, weights, &mut group.views_mut())?;
        Ok(group)
    }
}

impl DeviceCompact {
    /// As [`DeviceWeights::borrow`](crate::huffman::DeviceWeights::borrow) takes it.
    pub fn views(&self) -> IndexedViews<'_> {
        IndexedViews {
            codes: self.codes.view(),
            sign_mantissa: self.sign_mantissa.view(),
            tile_bytes: self.tile_bytes.view(),
            granule_bits: self.granule_bits.view(),
            table: self.table.view(),
            luts: None,
        }
    }

    /// As [`pack_codes`] takes it.
    pub fn views_mut(&mut self) -> CompactViewsMut<'_> {
        CompactViewsMut {
            codes: self.codes.view_mut(),
            sign_mantissa: self.sign_mantissa.view_mut(),
            tile_bytes: self.tile_bytes.view_mut(),
            granule_bits: self.granule_bits.view_mut(),
        }
    }

    /// The group on the host, as one matrix.
    ///
    /// # Errors
    /// Those of [`Queue::download`].
    pub fn download(&self, queue: &Queue) -> Result<CompactGroup> {
        Ok(CompactGroup {
            codes: queue.download(&self.codes.view())?,
            sign_mantissa: queue.download(&self.sign_mantissa.view())?,
            lengths: self.code.to_lengths(),
            tile_bytes: queue.download(&self.tile_bytes.view())?,
            granule_bits: queue.download(&self.granule_bits.view())?,
            split_positions: Vec::new(),
        })
    }
}

const _: () = assert!(CodeTable::N_BYTES == 16_640, "as documented");
