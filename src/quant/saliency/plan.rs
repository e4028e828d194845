//! The shapes of launches that weigh tokens: pure arithmetic, no driver.

use crate::attention::{LogBase, LogSumOrder};
use crate::error::{check_below, check_between};
use crate::kv::{KvLayout, KvLists, MAX_ROWS};
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::plan::check_group;
use crate::{Error, Result};

#[cfg(any(feature = "cuda", feature = "simt"))]
const BLOCK_THREADS: u32 = 256;
/// Tokens of a thread that begins.
#[cfg(any(feature = "cuda", feature = "simt"))]
const THREAD_TOKENS: u64 = 8;
/// Threads of a block that measures, and its rows.
#[cfg(any(feature = "cuda", feature = "simt"))]
const NORM_THREADS: u32 = 128;

/// How running saliency is kept, and what becomes of it.
///
/// ```
/// use lacuna::quant::{SaliencyPlan, SaliencyShape};
///
/// // Of 4 requests of up to 4,096 tokens, whose probe steps attend to 70 pages and a window of 512.
/// let shape = SaliencyShape { n_positions: 64 * 70 + 512, ..SaliencyShape::of(4, 32, 8, 4096) };
/// let plan = SaliencyPlan::new(shape)?;
/// assert_eq!(plan.state_len(), 4 * 8 * 4096);
/// assert_eq!(plan.logits_len(), 4 * 32 * (64 * 70 + 512));
/// # Ok::<_, lacuna::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SaliencyShape {
    /// Requests.
    pub batch: u64,
    /// Query heads: 1 to 16 for each head of keys.
    pub n_q_heads: u64,
    /// Heads of keys.
    pub n_heads: u64,
    /// Tokens that a request may have, up to 2^26.
    pub n_tokens: u64,
    /// Queries of each request in a step, 1 to 8.
    pub n_queries: u64,
    /// Positions that a step's logits are of.
    pub n_positions: u64,
    /// In which order a step's log-sum-exps are.
    pub log_sum_order: LogSumOrder,
    /// Their base.
    pub base: LogBase,
    /// What a token's sum and count are multiplied by when a step adds to them: 0 to 1, 1 where nothing is forgotten.
    pub decay: f32,
    /// Whose scores there are: of each head of keys, or of each request, the sum over its heads.
    pub lists: KvLists,
    /// Sums over the number of probes (rows of queries) that saw the token, as ZipCache has them; else sums, as H2O has them.
    pub is_per_probe: bool,
    /// What is added to each head's saliency before norms: 1e-4 in CriticalKV, else 0.
    pub floor: f32,
    /// The score of a token that some head's probes never saw: infinite, as a rule, so that none is demoted for lack of probes.
    pub fresh: f32,
}

impl SaliencyShape {
    /// ZipCache's score for each head of keys: plain decoding of one query, positions that are tokens, nothing forgotten, logarithms to base e.
    pub fn of(batch: u64, n_q_heads: u64, n_heads: u64, n_tokens: u64) -> Self {
        Self {
            batch,
            n_q_heads,
            n_heads,
            n_tokens,
            n_queries: 1,
            n_positions: n_tokens,
            log_sum_order: LogSumOrder::TokensHeads,
            base: LogBase::E,
            decay: 1.0,
            lists: KvLists::PerHead,
            is_per_probe: true,
            floor: 0.0,
            fresh: f32::INFINITY,
        }
    }
}

/// Launches that keep saliency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SaliencyPlan {
    shape: SaliencyShape,
}

impl SaliencyPlan {
    /// # Errors
    /// [`Error::Range`] and [`Error::Number`] for what is not supported; they say what is.
    pub fn new(shape: SaliencyShape) -> Result<Self> {
        check_below("requests", shape.batch, 1 << 16, "0..65536")?;
        check_below("heads of keys", shape.n_heads, 1 << 16, "0..65536")?;
        check_group(shape.n_q_heads, shape.n_heads)?;
        check_below("tokens", shape.n_tokens, MAX_ROWS + 1, "0..=2^26")?;
        check_between("queries of a request", shape.n_queries, 8, "1..=8")?;
        check_below("positions", shape.n_positions, 1 << 31, "0..2^31")?;
        let n_rows = shape.batch * shape.n_queries * shape.n_q_heads;
        let n_logits = n_rows.saturating_mul(shape.n_positions);
        check_below("logits", n_logits, 1 << 45, "0..2^45")?;
        let n_state = (shape.batch * shape.n_heads).saturating_mul(shape.n_tokens);
        check_below("tokens of all heads", n_state, 1 << 45, "0..2^45")?;
        let SaliencyShape { decay, floor, fresh, .. } = shape;
        for (what, value, is_allowed, allowed) in [
            ("decay", decay, (0.0..=1.0).contains(&decay), "0..=1"),
            ("floor of saliency", floor, (0.0..=1e6).contains(&floor), "0..=1e6"),
            ("score of a fresh token", fresh, !fresh.is_nan(), "all numbers, infinite ones too"),
        ] {
            if !is_allowed {
                return Err(Error::Number { what, value, allowed });
            }
        }
        Ok(Self { shape })
    }

    /// What it was made from.
    pub fn shape(&self) -> &SaliencyShape {
        &self.shape
    }

    /// Query heads of a head of keys.
    pub fn group(&self) -> u64 {
        self.shape.n_q_heads / self.shape.n_heads
    }

    /// Sums of all tokens and heads; as many counts and norms.
    pub fn state_len(&self) -> u64 {
        self.shape.batch * self.shape.n_heads * self.shape.n_tokens
    }

    /// Logits of a step.
    pub fn logits_len(&self) -> u64 {
        self.log_sums_len() * self.shape.n_positions
    }

    /// Log-sum-exps of a step.
    pub fn log_sums_len(&self) -> u64 {
        self.shape.batch * self.shape.n_queries * self.shape.n_q_heads
    }

    /// Tokens at the positions of all heads.
    pub fn positions_len(&self) -> u64 {
        self.shape.batch * self.shape.n_heads * self.shape.n_positions
    }

    /// Rows of scores of a request.
    pub fn n_lists(&self) -> u64 {
        self.shape.n_heads / self.n_heads_together()
    }

    /// Heads of keys that are added.
    pub fn n_heads_together(&self) -> u64 {
        match self.shape.lists {
            KvLists::PerHead => 1,
            KvLists::PerRequest => self.shape.n_heads,
        }
    }

    /// Scores of all rows: `[batch, n_lists, n_tokens]`.
    pub fn scores_len(&self) -> u64 {
        self.shape.batch * self.n_lists() * self.shape.n_tokens
    }

    /// Bytes that any kernel moves that adds a step of which every position has a token that is seen: logits and log-sums read once, with
    /// `has_tokens` the token of each position, a sum and a count of each read and written.
    pub fn least_bytes_of_step(&self, has_tokens: bool) -> u64 {
        let of_position = 16 + 4 * u64::from(has_tokens);
        4 * (self.logits_len() + self.log_sums_len()) + of_position * self.positions_len()
    }

    /// Bytes that any kernel moves that weighs all tokens.
    pub fn least_bytes_of_scores(&self, has_norms: bool) -> u64 {
        4 * ((2 + u64::from(has_norms)) * self.state_len() + self.scores_len())
    }

    /// What log-sums are multiplied by to be of base 2.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn log2_scale(&self) -> f32 {
        self.shape.base.log2_scale()
    }

    /// The grid of a launch that begins: a thread for eight tokens of a head.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn begin_grid(&self) -> Grid {
        self.grid(self.shape.n_tokens.div_ceil(THREAD_TOKENS), self.shape.n_heads)
    }

    /// The grid of a launch that adds: a thread for each position of a head.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn add_grid(&self) -> Grid {
        self.grid(self.shape.n_positions, self.shape.n_heads)
    }

    /// The grid of a launch that weighs: a thread for each score.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn weigh_grid(&self) -> Grid {
        self.grid(self.shape.n_tokens, self.n_lists())
    }

    #[cfg(any(feature = "cuda", feature = "simt"))]
    fn grid(&self, n_threads: u64, n_rows: u64) -> Grid {
        Grid {
            blocks: [
                n_threads.div_ceil(BLOCK_THREADS.into()) as u32,
                n_rows as u32,
                self.shape.batch as u32,
            ],
            threads: [BLOCK_THREADS, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        }
    }
}

/// A norm of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Norm {
    /// The sum of magnitudes, as CriticalKV has it of projected values.
    #[default]
    L1,
    /// The root of the sum of squares.
    L2,
}

/// Sizes of a launch that measures values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NormsShape {
    /// The cache, with values; a row for each token.
    pub layout: KvLayout,
    /// Norms of each request and head, up to 2^26.
    pub n_tokens: u64,
    /// Rows of a request and head that the grid is for; a launch measures what there are more too, at a slower pace.
    pub max_new: u64,
    /// Which norm.
    pub norm: Norm,
}

impl NormsShape {
    /// L1 norms of all tokens that the cache holds.
    pub fn of(layout: KvLayout) -> Self {
        Self { layout, n_tokens: layout.n_rows(), max_new: layout.n_rows(), norm: Norm::L1 }
    }
}

/// A launch that measures values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NormsPlan {
    shape: NormsShape,
}

impl NormsPlan {
    /// # Errors
    /// [`Error::Range`] for what is not supported; it says what is.
    pub fn new(shape: NormsShape) -> Result<Self> {
        let kv = shape.layout.shape();
        check_between("tokens of a row", kv.tokens_per_row, 1, "1")?;
        check_below("tokens", shape.n_tokens, MAX_ROWS + 1, "0..=2^26")?;
        let n_norms = (kv.batch * kv.n_heads).saturating_mul(shape.n_tokens);
        check_below("norms", n_norms, 1 << 45, "0..2^45")?;
        Ok(Self { shape })
    }

    /// What it was made from.
    pub fn shape(&self) -> &NormsShape {
        &self.shape
    }

    /// Norms of all tokens and heads.
    pub fn norms_len(&self) -> u64 {
        let kv = self.shape.layout.shape();
        kv.batch * kv.n_heads * self.shape.n_tokens
    }

    /// Bytes that any kernel moves that measures so many rows of each head, of elements of so many bytes.
    pub fn least_bytes(&self, n_rows: u64, value_bytes: u64) -> u64 {
        let kv = self.shape.layout.shape();
        kv.batch * kv.n_heads * n_rows * (kv.row_len * value_bytes + 4)
    }

    /// The grid of the launch: a block for 128 rows of a head.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        let kv = self.shape.layout.shape();
        let n_blocks =
            self.shape.max_new.min(self.shape.n_tokens).div_ceil(NORM_THREADS.into()).max(1);
        Grid {
            blocks: [n_blocks as u32, kv.n_heads as u32, kv.batch as u32],
            threads: [NORM_THREADS, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        }
    }
}
