//! DF11 groups encoded where they are.

use half::bf16;

use super::compact::{Counter, EncodePlan, nothing_measured, place_codes};
use super::encode::{Chosen, densest_block};
use super::{
    EncodedGroup, GroupViews, GroupViewsMut, Measured, PUBLISHED_BLOCK_ELEMENTS, pack_group,
    upload_codebook,
};
use crate::buffer::{Buffer, View};
use crate::error::check_same;
use crate::queue::Queue;
use crate::{Error, Result};

/// Encodes DF11 groups of one size in device memory, with a workspace of its own.
///
/// ```text
/// counts[e] = weights of exponent e       one launch, and the host waits for 256 words
/// book      = Codebook::new(counts)       on the host
/// tensors   = encode(weights, book)       two launches
/// ```
///
/// The matrices of a group follow one another; where each begins is the caller's to keep.
#[derive(Debug)]
pub struct Encoder {
    counter: Counter,
    /// Of the group that was measured last.
    latest: Option<([u64; 256], Chosen)>,
}

/// A DF11 group in device memory.
#[derive(Debug)]
pub struct DeviceGroup {
    /// `[n_code_bytes]`.
    pub encoded_exponent: Buffer<u8>,
    /// `[n_elements]`.
    pub sign_mantissa: Buffer<u8>,
    /// `[n_lut_rows + 1, 256]`.
    pub luts: Buffer<u8>,
    /// `[320 * n_blocks]`.
    pub gaps: Buffer<u8>,
    /// `[4 * (n_blocks + 1)]`.
    pub output_positions: Buffer<u8>,
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
        Ok(Self { counter: Counter::new(queue, n_elements)?, latest: None })
    }

    /// What it launches.
    pub fn plan(&self) -> &EncodePlan {
        self.counter.plan()
    }

    /// Counts a group's exponents, and makes its smallest code.
    ///
    /// # Stream
    /// One launch, a copy of 2 KiB that the host waits for, and one of 2 KiB.
    ///
    /// # Errors
    /// Those of [`count_exponents`](super::compact::count_exponents), and [`Error::Range`](crate::Error::Range) where codes have 2^31 bytes.
    pub fn measure(&mut self, queue: &Queue, weights: &View<'_, bf16>) -> Result<Measured> {
        self.latest = None;
        let histogram = self.counter.count(queue, weights)?;
        let chosen = Chosen::new(&histogram)?;
        self.take(queue, histogram, chosen)
    }

    /// Encodes the group that was measured last; `outputs.encoded_exponent` has [`Measured::n_code_bytes`].
    ///
    /// `weights` are those that were measured, where they were or elsewhere. Of others nothing outside `outputs` is written, and what
    /// stands there is no group: decoders find it corrupt, or make other weights of it.
    ///
    /// # Numerics
    /// Bit for bit [`encode`](super::encode()), once [`lengthen`](Self::lengthen) has no other code.
    ///
    /// # Stream
    /// Two launches; no allocation, copy or synchronisation.
    ///
    /// # Errors
    /// Those of [`pack_group`]; [`Error::Shape`](crate::Error::Shape) where `outputs.encoded_exponent` has another length, and
    /// [`Error::Range`](crate::Error::Range) where nothing was measured. Where the second launch fails, nothing needs to be zeroed
    /// again.
    pub fn pack(
        &mut self,
        queue: &Queue,
        weights: &View<'_, bf16>,
        outputs: &mut GroupViewsMut<'_>,
    ) -> Result<()> {
        let (_, chosen) = self.latest.as_ref().ok_or_else(nothing_measured)?;
        let n_code_bytes = chosen.measured.n_code_bytes;
        check_same("encoded_exponent", n_code_bytes, outputs.encoded_exponent.len())?;
        let plan = *self.plan();
        place_codes(queue, &plan, &mut self.counter.workspace())?;
        pack_group(queue, &plan, weights, &self.counter.workspace(), outputs)
    }

    /// The code to pack the group by again, where one of its blocks, which begin at `output_positions`, has more weights than published
    /// decoders hold: its stream is a little longer.
    ///
    /// # Stream
    /// Nothing where the code that was packed by has no code of one bit, as is so of most; else a copy of the positions that the host waits
    /// for, and where there is another code, one of 2 KiB.
    ///
    /// # Errors
    /// Those of [`Queue::download`] and [`upload_codebook`], [`Error::Shape`](crate::Error::Shape) for positions of another length than
    /// [`Measured::output_positions_len`], and [`Error::Range`](crate::Error::Range) where codes have 2^31 bytes.
    pub fn lengthen(
        &mut self,
        queue: &Queue,
        output_positions: &View<'_, u8>,
    ) -> Result<Option<Measured>> {
        let Some((histogram, chosen)) = &self.latest else { return Ok(None) };
        let (expected, got) =
            (chosen.measured.output_positions_len(), output_positions.len() as u64);
        if got != expected {
            return Err(Error::Shape { what: "output_positions", expected, got });
        }
        // A block has as many bits as 16,384 codes of two.
        if !chosen.measured.book.lengths().contains(&1) {
            return Ok(None);
        }
        let positions: Vec<u32> = queue
            .download(output_positions)?
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes))
            .collect();
        if densest_block(&positions) <= PUBLISHED_BLOCK_ELEMENTS {
            return Ok(None);
        }
        match chosen.lengthen(histogram)? {
            Some(longer) => self.take(queue, *histogram, longer).map(Some),
            None => Ok(None),
        }
    }

    /// All of it, with memory for what comes of it.
    ///
    /// # Numerics
    /// Bit for bit [`encode`](super::encode()).
    ///
    /// # Stream
    /// Those of [`measure`](Self::measure), of [`pack`](Self::pack) and [`lengthen`](Self::lengthen) for each code that is tried, up to three,
    /// with four allocations each; one more, and a copy of the tables.
    ///
    /// # Errors
    /// Those of [`measure`](Self::measure), [`pack`](Self::pack) and [`lengthen`](Self::lengthen), and
    /// [`Error::Driver`](crate::Error::Driver) where memory is short.
    pub fn encode(&mut self, queue: &Queue, weights: &View<'_, bf16>) -> Result<DeviceGroup> {
        let mut measured = self.measure(queue, weights)?;
        loop {
            let mut group = DeviceGroup {
                encoded_exponent: queue.alloc(measured.n_code_bytes as usize)?,
                sign_mantissa: queue.alloc(self.plan().n_elements() as usize)?,
                luts: queue.upload(measured.book.luts())?,
                gaps: queue.alloc(measured.gaps_len() as usize)?,
                output_positions: queue.alloc(measured.output_positions_len() as usize)?,
            };
            self.pack(queue, weights, &mut group.views_mut())?;
            match self.lengthen(queue, &group.output_positions.view())? {
                Some(longer) => measured = longer,
                None => return Ok(group),
            }
        }
    }

    fn take(&mut self, queue: &Queue, histogram: [u64; 256], chosen: Chosen) -> Result<Measured> {
        let measured = chosen.measured.clone();
        let plan = *self.plan();
        upload_codebook(queue, &plan, &measured.book, &mut self.counter.workspace())?;
        self.latest = Some((histogram, chosen));
        Ok(measured)
    }
}

impl DeviceGroup {
    /// As [`DeviceWeights::borrow`](super::DeviceWeights::borrow) takes it.
    pub fn views(&self) -> GroupViews<'_> {
        GroupViews {
            encoded_exponent: self.encoded_exponent.view(),
            sign_mantissa: self.sign_mantissa.view(),
            luts: self.luts.view(),
            gaps: self.gaps.view(),
            output_positions: self.output_positions.view(),
        }
    }

    /// As [`pack_group`] takes it.
    pub fn views_mut(&mut self) -> GroupViewsMut<'_> {
        GroupViewsMut {
            encoded_exponent: self.encoded_exponent.view_mut(),
            sign_mantissa: self.sign_mantissa.view_mut(),
            gaps: self.gaps.view_mut(),
            output_positions: self.output_positions.view_mut(),
        }
    }

    /// The group on the host, as one matrix.
    ///
    /// # Errors
    /// Those of [`Queue::download`].
    pub fn download(&self, queue: &Queue) -> Result<EncodedGroup> {
        Ok(EncodedGroup {
            encoded_exponent: queue.download(&self.encoded_exponent.view())?,
            sign_mantissa: queue.download(&self.sign_mantissa.view())?,
            luts: queue.download(&self.luts.view())?,
            gaps: queue.download(&self.gaps.view())?,
            output_positions: queue.download(&self.output_positions.view())?,
            split_positions: Vec::new(),
        })
    }
}
