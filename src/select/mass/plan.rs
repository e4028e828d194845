//! The shape of the launches that sum columns of attention.

use crate::error::check_below;
use crate::kv::KvLayout;
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::plan::{check_group, check_scale, log2_scale, spread};
use crate::select::score::MAX_SUMMED;
use crate::{Error, Result};

#[cfg(any(feature = "cuda", feature = "simt"))]
const THREADS_PER_BLOCK: u32 = 256;
/// Of each thread, sixteen slots of 16 bytes.
#[cfg(any(feature = "cuda", feature = "simt"))]
const STAGED_BYTES: u32 = 16 * 16 * THREADS_PER_BLOCK;
/// Queries that are on chip at once.
#[cfg(any(feature = "cuda", feature = "simt"))]
const CHUNK: u32 = 16;

/// Sizes of [`column_mass`](crate::select::column_mass).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MassShape {
    /// The cache of keys; rows of 512 elements at most. Above 256, a block needs more shared memory than devices of 8.6, 8.9 and
    /// 12.0 have, and a launch there is refused.
    pub layout: KvLayout,
    /// Query heads: 1 to 16 for each head of keys.
    pub n_q_heads: u64,
    /// Probes of a request: the queries whose attention is summed.
    pub n_probes: u64,
    /// Elements from one request's probes to the next's.
    pub request_stride: u64,
    /// Elements from one probe to the next, at least `n_q_heads` times the head's dimension.
    pub probe_stride: u64,
    /// Tokens of a request whose mass is wanted, at most; those after them count for nothing, in softmaxes too. Below 2^24.
    pub n: u64,
    /// Elements from one row of masses to the next, at least `n`.
    pub mass_stride: u64,
    /// One row of masses for all heads, not one for each head of keys.
    pub is_over_all_heads: bool,
    /// The mean over the heads that are added, not their sum.
    pub is_mean: bool,
    /// Divided by the number of probes that see the token.
    pub is_per_probe: bool,
    /// What scores are multiplied by in softmaxes: one over the root of the head's dimension, as a rule.
    pub softmax_scale: f32,
}

impl MassShape {
    /// All tokens of a cache, by probes one after the other: the mean over all heads, summed over probes; softmaxes with one
    /// over the root of the head's dimension.
    pub fn of(layout: KvLayout, n_q_heads: u64, n_probes: u64) -> Self {
        let head_dim = layout.shape().row_len;
        let probe_stride = n_q_heads.saturating_mul(head_dim);
        Self {
            layout,
            n_q_heads,
            n_probes,
            request_stride: n_probes.saturating_mul(probe_stride),
            probe_stride,
            n: layout.n_rows(),
            mass_stride: layout.n_rows(),
            is_over_all_heads: true,
            is_mean: true,
            is_per_probe: false,
            softmax_scale: (head_dim as f32).sqrt().recip(),
        }
    }
}

/// Launches that sum columns of attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MassPlan {
    shape: MassShape,
}

impl MassPlan {
    /// # Errors
    /// [`Error::Range`] for what is not supported; it says what is.
    pub fn new(shape: MassShape) -> Result<Self> {
        let kv = shape.layout.shape();
        check_group(shape.n_q_heads, kv.n_heads)?;
        if kv.row_len > 512 {
            let (what, value) = ("dimension of a head", kv.row_len);
            return Err(Error::Range { what, value, allowed: "the multiples of 8 up to 512" });
        }
        check_scale(shape.softmax_scale)?;
        check_below("probes of a request", shape.n_probes, 4097, "0..=4096")?;
        check_below("tokens", shape.n, MAX_SUMMED, "0..2^24")?;
        let head_len = shape.n_q_heads * kv.row_len;
        for (what, value, least, allowed) in [
            (
                "stride between probes, in elements",
                shape.probe_stride,
                head_len,
                "the heads of a query and more",
            ),
            (
                "stride between rows of masses, in elements",
                shape.mass_stride,
                shape.n,
                "the tokens and more",
            ),
        ] {
            if value < least {
                return Err(Error::Range { what, value, allowed });
            }
        }
        let of_request = shape.n_probes.saturating_mul(shape.probe_stride);
        check_below("elements of a request's probes", of_request, 1 << 44, "0..2^44")?;
        for (what, count, stride) in [
            ("bytes of probes", kv.batch, shape.request_stride.max(of_request)),
            ("bytes of masses", kv.batch * kv.n_heads, shape.mass_stride),
        ] {
            let n_bytes = count.checked_mul(stride).and_then(|n| n.checked_mul(4));
            check_below(what, n_bytes.unwrap_or(u64::MAX), 1 << 47, "0..2^47")?;
        }
        let plan = Self { shape };
        let n_partials = plan.n_softmaxes().saturating_mul(plan.n_tiles());
        check_below("partial softmaxes", n_partials, 1 << 40, "0..2^40")?;
        Ok(plan)
    }

    /// What it was made from.
    pub fn shape(&self) -> &MassShape {
        &self.shape
    }

    /// Query heads of a head of keys.
    pub fn group(&self) -> u64 {
        self.shape.n_q_heads / self.shape.layout.shape().n_heads
    }

    pub(crate) fn batch(&self) -> u64 {
        self.shape.layout.shape().batch
    }

    /// Tokens of a tile, whose keys are on chip, and of a partial softmax: 256, of a head's dimension above 128 half
    /// of it, above 256 a quarter.
    pub fn tile(&self) -> u64 {
        256 / self.shape.layout.shape().row_len.div_ceil(128).next_power_of_two()
    }

    /// Tiles of a request.
    pub fn n_tiles(&self) -> u64 {
        self.shape.n.div_ceil(self.tile())
    }

    /// Heads of keys that are added.
    pub fn n_heads_together(&self) -> u64 {
        if self.shape.is_over_all_heads { self.shape.layout.shape().n_heads } else { 1 }
    }

    /// Rows of masses of a request.
    pub fn n_out(&self) -> u64 {
        self.shape.layout.shape().n_heads / self.n_heads_together()
    }

    /// What a sum is multiplied by.
    pub fn mass_scale(&self) -> f32 {
        match self.shape.is_mean {
            true => 1.0 / (self.group() * self.n_heads_together()) as f32,
            false => 1.0,
        }
    }

    /// The scale of softmaxes whose base is 2.
    pub fn log2_scale(&self) -> f32 {
        log2_scale(self.shape.softmax_scale)
    }

    /// Elements from the first of the first probe to the last of the last.
    pub fn probes_len(&self) -> u64 {
        if self.shape.n_probes == 0 {
            return 0;
        }
        let head_len = self.shape.n_q_heads * self.shape.layout.shape().row_len;
        let of_request = spread(self.shape.n_probes, self.shape.probe_stride, head_len);
        spread(self.batch(), self.shape.request_stride, of_request)
    }

    /// Elements of what probes see.
    pub fn visible_len(&self) -> u64 {
        self.batch() * self.shape.n_probes
    }

    /// Elements from the first of the first row of masses to the last of the last.
    pub fn masses_len(&self) -> u64 {
        spread(self.batch() * self.n_out(), self.shape.mass_stride, self.shape.n)
    }

    /// Softmaxes: one for each probe and query head.
    pub fn n_softmaxes(&self) -> u64 {
        self.batch() * self.shape.n_probes * self.shape.n_q_heads
    }

    /// Words of the workspace; zeros before the first launch.
    pub fn workspace_len(&self) -> u64 {
        self.n_tickets() + 2 * self.n_softmaxes() * self.n_tiles()
    }

    /// Of the workspace, words that must be zeros: an even number of them, since what follows moves 16 bytes at once.
    pub fn n_tickets(&self) -> u64 {
        (self.batch() * self.shape.layout.shape().n_heads).div_ceil(4) * 2
    }

    /// Bytes that each launch moves at least where every request has `n` tokens: every key and probe read once.
    pub fn least_bytes(&self, key_bytes: u64, query_bytes: u64) -> u64 {
        let kv = self.shape.layout.shape();
        let keys = kv.batch * kv.n_heads * self.shape.n * kv.row_len * key_bytes;
        keys + self.n_softmaxes() * (kv.row_len * query_bytes + 8)
    }

    /// The grid of the first launch.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn probe_grid(&self) -> Grid {
        self.grid(self.shape.layout.shape().n_heads)
    }

    /// The grid of the second launch.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn mass_grid(&self) -> Grid {
        self.grid(self.n_out())
    }

    #[cfg(any(feature = "cuda", feature = "simt"))]
    fn grid(&self, n_rows: u64) -> Grid {
        let pitch = self.shape.layout.shape().row_len.next_multiple_of(64) as u32;
        Grid {
            blocks: [self.n_tiles().max(1) as u32, n_rows as u32, self.batch() as u32],
            threads: [THREADS_PER_BLOCK, 1, 1],
            dynamic_shared_bytes: STAGED_BYTES + 4 * CHUNK * pitch,
            cluster_blocks: 1,
        }
    }
}
