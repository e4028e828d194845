//! A long context streamed through a cache of tiers: new tokens are numbers, older ones have 8, 4 or 2 bits by how much attention they
//! get, and fewer as they get less (after ZipCache, arXiv:2405.14256, whose decisions are never revisited).
//!
//! `cargo run --release --example tiered_kv --features simt [-- --svg PATH]`
#![allow(
    dead_code,
    unreachable_pub,
    clippy::duplicate_mod,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    reason = "a module of the tests too, with what examples share"
)]

use half::bf16;
use lacuna::attention::{
    AttendInputs, AttendOutputs, AttendPlan, AttendShape, Segment, SegmentShape, TieredInputs,
    TieredPlan, Tokens, attend_tiered,
};
use lacuna::kv::{KvLayout, KvLists, KvShape};
use lacuna::quant::{
    AppendOutputs, AppendPlan, AppendShape, ChannelViews, ChannelViewsMut, ChannelsPlan,
    MeasuredRows, MissingPage, NewTokens, NormsPlan, NormsShape, PagesPlan, PagesShape, Part,
    RetierInputs, RetierOutputs, RetierPlan, RetierShape, SaliencyInputs, SaliencyPlan,
    SaliencyShape, SaliencyState, StepLogits, TierPools, TierPoolsMut, Turn, add_saliency,
    append_kv, measure_channels, measure_norms, retier_pages, weigh_saliency,
};
use lacuna::simt::Config;
use lacuna::{Buffer, Device, Queue, Result, View};

#[path = "tiered_kv/picture.rs"]
pub(crate) mod picture;
#[path = "tiered_kv/places.rs"]
pub(crate) mod places;
#[path = "tiered_kv/rows.rs"]
pub(crate) mod rows;
#[path = "tiered_kv/stream.rs"]
pub(crate) mod stream;
pub(crate) mod toy;

use picture::{Panel, draw, short};
use places::{Moved, PAGE, Places, TIERS};
use rows::Rows;
use stream::{Sizes, Stream, relative_error};

/// How a cache is kept.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Query heads.
    pub n_q_heads: u64,
    /// Tokens of a step: 1 at decoding.
    pub n_new: usize,
    /// So many of the first tokens stay numbers.
    pub n_sinks: usize,
    /// And so many of the last, at least.
    pub n_window: usize,
    /// Tokens from one re-tiering to the next.
    pub n_between: usize,
    /// Shares of tokens that have 16, 8, 4 and 2 bits, of those older than the window.
    pub shares: [f64; 4],
    /// What saliency of before counts at each probe.
    pub decay: f32,
}

/// One layer's cache of one request. All is allocated once; [`step`](Self::step) only launches, and every `n_between` tokens the host
/// [re-tiers](Self::retier).
///
/// Of tokens older than the window as many as fill pages are in pages, and the newest of them wait: at most 63. So rows that are numbers
/// are the sinks and all after the last token in pages, the same for all heads, and the engine has the others' pages back.
pub struct TieredKv {
    settings: Settings,
    /// Where tokens are.
    pub places: Places,
    /// What the last re-tiering moved, of each head.
    pub moved: Vec<Moved>,
    /// The first token after those in pages.
    first_row: usize,
    next_retier: usize,

    append: AppendPlan,
    cos_sin: Buffer<f32>,
    /// Of all launches over pages.
    status: Buffer<u64>,
    norms_plan: NormsPlan,
    norms: Buffer<f32>,

    attend: TieredPlan,
    workspace: Buffer<u32>,
    outputs: Buffer<f32>,
    log_sums: Buffer<f32>,
    logits: Buffer<f32>,
    /// By tag.
    pools: [Buffer<u8>; 4],
    /// Of keys and of values: now, and before the last re-tiering.
    entries: [Buffer<u32>; 2],
    old_entries: [Buffer<u32>; 2],
    /// Rows that are numbers and may come before the next re-tiering; those past the cache's length are absent.
    recent: Buffer<i32>,

    saliency: SaliencyPlan,
    sums: Buffer<f32>,
    counts: Buffer<f32>,
    scores: Buffer<f32>,
    /// `[n_heads, n_positions]`: the token at each position of attention.
    tokens: Buffer<i32>,

    channels_plan: ChannelsPlan,
    channels_workspace: Buffer<u32>,
    measured: Buffer<i32>,
    /// Scales and offsets of keys, and scales of values: measured once.
    channels: [Buffer<f32>; 3],
    has_channels: bool,

    retier: RetierPlan,
    slots: Buffer<i32>,
    new_slots: Buffer<i32>,
    indices: Buffer<i32>,
    first_pages: Buffer<u32>,
}

/// A step's tokens, and the queries of the last of them.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// `[n_new, n_heads, head_dim]`, not turned.
    pub keys: View<'a, bf16>,
    /// The same.
    pub values: View<'a, bf16>,
    /// `[n_q_heads, head_dim]`, turned.
    pub queries: View<'a, bf16>,
    /// Whether saliency is taken from this step.
    pub is_probe: bool,
}

/// Bytes of a cache that are in use. Pools have room for more pages than that, and requests share them in an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes {
    /// Pages of tiers that are in use.
    pub pages: u64,
    /// Pages of the engine's cache that are in use.
    pub rows: u64,
    /// Tables of both, the list of rows, and channels.
    pub tables: u64,
    /// What attention does not read, and choosing tiers does: of each token and head a sum, a count, a norm and where it is, 4 each. What a
    /// re-tiering needs for itself, as scores and lists of tokens, is not of one layer.
    pub policy: u64,
    /// All keys and values as bf16, and their page table.
    pub bf16: u64,
}

impl Bytes {
    /// All that attention reads, or may.
    pub fn cache(&self) -> u64 {
        self.pages + self.rows + self.tables
    }
}

impl TieredKv {
    /// For contexts of up to as many tokens as the layout has rows. `cos_sin` is `[n_rows, head_dim]`.
    pub fn new(
        queue: &Queue,
        layout: KvLayout,
        settings: Settings,
        cos_sin: &[f32],
    ) -> Result<Self> {
        let kv = *layout.shape();
        let (n_rows, n_heads) = (layout.n_rows(), kv.n_heads as usize);
        let n_pages = n_rows.div_ceil(PAGE as u64);
        let n_pool_pages = Places::n_pool_pages(n_heads, n_rows as usize, settings.shares);
        let pages_shape = PagesShape { n_pool_pages, ..PagesShape::of(layout, n_pages) };
        let pages = PagesPlan::new(pages_shape)?;
        let append = AppendPlan::new(AppendShape {
            turn: Turn::Halves,
            rotary_dim: kv.row_len,
            n_positions: n_rows,
            ..AppendShape::of(layout, settings.n_new as u64)
        })?;
        // Appended tokens are measured, no more.
        let norms_plan = NormsPlan::new(NormsShape {
            max_new: settings.n_new as u64,
            ..NormsShape::of(layout)
        })?;
        let n_blocks = settings.most_recent() as u64;
        let segments = [
            SegmentShape::of(layout, Tokens::first(settings.n_sinks as u64)),
            SegmentShape::of(layout, Tokens::Blocks { n_blocks, block_size: 1 }),
        ];
        let attend = AttendPlan::new(AttendShape::of(&layout, settings.n_q_heads), &segments)?;
        let attend = TieredPlan::new(attend, pages)?;
        let saliency = SaliencyPlan::new(SaliencyShape {
            n_positions: attend.n_positions(),
            decay: settings.decay,
            ..SaliencyShape::of(1, settings.n_q_heads, kv.n_heads, n_rows)
        })?;
        let n_measured = (settings.first_retier() / PAGE) as u64;
        let lists = KvLists::PerRequest;
        let channels_shape = PagesShape { lists, ..PagesShape::of(layout, n_measured) };
        let channels_plan = ChannelsPlan::new(PagesPlan::new(channels_shape)?);
        let measured: Vec<i32> = (0..channels_plan.pages().indices_len() as i32).collect();
        let retier = RetierPlan::new(RetierShape::of(pages_shape))?;

        let n_entries = pages.entries_len() as usize;
        let [n_slots, n_state] = [retier.slots_len(), saliency.state_len()].map(|n| n as usize);
        let n_channels = pages.channels_len() as usize;
        let pool = |at: usize| queue.alloc(pages.pool_bytes(TIERS[at]) as usize);
        let entries = || queue.upload(&vec![places::NO_PAGE; n_entries]);
        let mut this = Self {
            places: Places::new(n_heads, n_pool_pages, settings.shares),
            moved: Vec::new(),
            first_row: settings.n_sinks,
            next_retier: settings.first_retier(),
            cos_sin: queue.upload(cos_sin)?,
            status: queue.upload(&[0])?,
            append,
            norms: queue.alloc(norms_plan.norms_len() as usize)?,
            norms_plan,
            workspace: queue.alloc(attend.workspace_len() as usize)?,
            outputs: queue.alloc(attend.attend().outputs_len() as usize)?,
            log_sums: queue.alloc(attend.attend().log_sums_len() as usize)?,
            logits: queue.alloc(attend.logits_len() as usize)?,
            attend,
            pools: [pool(0)?, pool(1)?, pool(2)?, pool(3)?],
            entries: [entries()?, entries()?],
            old_entries: [entries()?, entries()?],
            recent: queue.alloc(n_blocks as usize)?,
            sums: queue.alloc(n_state)?,
            counts: queue.alloc(n_state)?,
            scores: queue.alloc(saliency.scores_len() as usize)?,
            tokens: queue.alloc(saliency.positions_len() as usize)?,
            saliency,
            channels_workspace: queue.alloc(channels_plan.workspace_len() as usize)?,
            channels_plan,
            measured: queue.upload(&measured)?,
            channels: [
                queue.alloc(n_channels)?,
                queue.alloc(n_channels)?,
                queue.alloc(n_channels)?,
            ],
            has_channels: false,
            slots: queue.alloc(n_slots)?,
            new_slots: queue.alloc(n_slots)?,
            indices: queue.alloc(retier.indices_len() as usize)?,
            first_pages: queue.alloc(retier.runs_len() as usize)?,
            retier,
            settings,
        };
        for workspace in [&mut this.workspace, &mut this.channels_workspace] {
            queue.fill_zero(&mut workspace.view_mut())?;
        }
        for state in [&mut this.sums, &mut this.counts, &mut this.norms, &mut this.scores] {
            queue.fill_zero(&mut state.view_mut())?;
        }
        this.upload_positions(queue)?;
        Ok(this)
    }

    /// Appends and attends: three launches, and one more on probes.
    pub fn step(&mut self, queue: &Queue, rows: &mut Rows, step: Step<'_>) -> Result<()> {
        let (mut cache, new_lengths) = rows.for_append();
        let tokens = NewTokens {
            keys: step.keys,
            values: step.values,
            counts: None,
            keeps: None,
            positions: None,
            cos_sin: Some(self.cos_sin.view()),
        };
        let mut outputs = AppendOutputs { new_lengths, dropped: None, workspace: None };
        append_kv(queue, &self.append, &tokens, &mut cache, &mut outputs)?;
        rows.appended(self.settings.n_new);
        let (cache, firsts) = (rows.view(), Some(rows.old_lengths()));
        measure_norms(queue, &self.norms_plan, &cache, firsts, &mut self.norms.view_mut())?;

        let segments = [Segment::new(cache, None), Segment::new(cache, Some(self.recent.view()))];
        let inputs =
            AttendInputs { queries: step.queries, segments: &segments, sinks: None, skips: None };
        let [scales, offsets, of_values] = self.channels.each_ref().map(|x| Some(x.view()));
        // Before channels are measured there is no page.
        let [scales, offsets, of_values] =
            [scales, offsets, of_values].map(|x| x.filter(|_| self.has_channels));
        let mut pages = TieredInputs {
            pools: TierPools {
                pools: self.pools.each_ref().map(|pool| Some(pool.view())),
                status: Some(self.status.view_mut()),
            },
            key_entries: self.entries[0].view(),
            value_entries: self.entries[1].view(),
            counts: None,
            key_channels: ChannelViews { scales, offsets },
            value_channels: ChannelViews { scales: of_values, offsets: None },
        };
        let mut outputs = AttendOutputs {
            outputs: self.outputs.view_mut(),
            log_sums: Some(self.log_sums.view_mut()),
            workspace: self.workspace.view_mut(),
        };
        let mut logits = step.is_probe.then(|| self.logits.view_mut());
        attend_tiered(queue, &self.attend, &inputs, &mut pages, &mut outputs, logits.as_mut())?;
        if !step.is_probe {
            return Ok(());
        }
        let inputs = StepLogits {
            logits: self.logits.view(),
            log_sums: self.log_sums.view(),
            tokens: Some(self.tokens.view()),
            skips: None,
        };
        let (sums, counts) = (self.sums.view_mut(), self.counts.view_mut());
        add_saliency(queue, &self.saliency, &inputs, &mut SaliencyState { sums, counts })
    }

    /// Gives older tokens their tiers, if enough have come since the last time: two launches, the first time three, and the engine has rows back.
    ///
    /// A token matters as much as probes attended to it, over how many saw it (ZipCache's score), times the L1 norm of its value (as in CriticalKV,
    /// arXiv:2502.03805, but without its floor and before the output projection).
    ///
    /// Which tokens have which tier is decided on the host, by scores that are downloaded: that no token rises is a sort of those that may
    /// have a tier, and pages come from a free list. An engine reads the scores of all layers at once, and decides while the next step is under way.
    pub fn retier(&mut self, queue: &Queue, rows: &mut Rows) -> Result<()> {
        if rows.n_tokens() < self.next_retier {
            return Ok(());
        }
        self.next_retier = rows.n_tokens() + self.settings.n_between;
        if !self.has_channels {
            self.measure(queue, rows)?;
        }
        let inputs = SaliencyInputs {
            sums: self.sums.view(),
            counts: self.counts.view(),
            norms: Some(self.norms.view()),
            lengths: Some(rows.view().lengths),
            skips: None,
        };
        weigh_saliency(queue, &self.saliency, &inputs, &mut self.scores.view_mut())?;
        let scores = queue.download(&self.scores.view())?;

        let n_rows = rows.layout().n_rows() as usize;
        let n_sinks = self.settings.n_sinks;
        let n_old = rows.n_tokens() - self.settings.n_window - n_sinks;
        self.first_row = n_sinks + n_old / PAGE * PAGE;
        queue.upload_into(&self.places.slots(n_rows), &mut self.slots.view_mut())?;
        self.moved = self.places.retier(n_sinks..self.first_row, &scores, n_rows);
        let moved = &self.moved;
        let n_table = self.retier.shape().n_new_pages as usize;
        // After a head's last page are entries of no page, and no tokens.
        let mut indices = vec![-1; self.indices.len()];
        for (moved, indices) in moved.iter().zip(indices.chunks_mut(PAGE * n_table)) {
            indices[..moved.tokens.len()].copy_from_slice(&moved.tokens);
        }
        let first_pages: Vec<_> = moved.iter().map(|moved| moved.first_page as u32).collect();
        queue.upload_into(&indices, &mut self.indices.view_mut())?;
        queue.upload_into(&first_pages, &mut self.first_pages.view_mut())?;
        std::mem::swap(&mut self.entries, &mut self.old_entries);
        for (entries, buffer) in self.places.entries(n_table).iter().zip(&mut self.entries) {
            queue.upload_into(entries, &mut buffer.view_mut())?;
        }
        let [scales, offsets, of_values] = self.channels.each_ref().map(|x| Some(x.view()));
        let inputs = RetierInputs {
            cache: Some(rows.view()),
            slot_of: self.slots.view(),
            old_key_entries: self.old_entries[0].view(),
            old_value_entries: self.old_entries[1].view(),
            indices: self.indices.view(),
            counts: None,
            first_pages: Some(self.first_pages.view()),
            key_entries: self.entries[0].view(),
            value_entries: self.entries[1].view(),
            key_channels: ChannelViews { scales, offsets },
            value_channels: ChannelViews { scales: of_values, offsets: None },
        };
        let pools = TierPoolsMut {
            pools: self.pools.each_mut().map(|pool| Some(pool.view_mut())),
            status: Some(self.status.view_mut()),
        };
        let mut outputs = RetierOutputs { pools, new_slots: self.new_slots.view_mut() };
        retier_pages(queue, &self.retier, &inputs, &mut outputs)?;
        self.upload_positions(queue)?;
        rows.hold(queue, self.held())
    }

    /// The first entry that named a page which is not there, if any did: the tables' own fault, to be asked for when the queue is waited for anyway.
    pub fn missing_page(&self, queue: &Queue) -> Result<Option<MissingPage>> {
        Ok(MissingPage::from_status(queue.download(&self.status.view())?[0]))
    }

    /// Rows that must have pages until the next re-tiering: sinks, and all after the last token in pages.
    pub fn held(&self) -> [std::ops::Range<usize>; 2] {
        [0..self.settings.n_sinks, self.first_row..self.next_retier + self.settings.n_new]
    }

    /// `[n_q_heads, head_dim]`, of the last step.
    pub fn outputs(&self) -> View<'_, f32> {
        self.outputs.view()
    }

    /// `[n_heads, n_rows]`: how much each token mattered at the last re-tiering, which is what its bits are chosen by.
    pub fn scores(&self) -> View<'_, f32> {
        self.scores.view()
    }

    /// Where the last re-tiering put the tokens that it moved, as the kernel says.
    pub fn new_slots(&self) -> View<'_, i32> {
        self.new_slots.view()
    }

    /// What there is now, and what bf16 would have.
    pub fn bytes(&self, rows: &Rows) -> Bytes {
        let kv = *rows.layout().shape();
        let page = self.attend.pages().page(Part::Keys);
        let n_pages = self.places.n_pages();
        let of_tier = |at: usize| n_pages[at] * page.page_bytes(TIERS[at]) as u64;
        let (n_held, of_rows) = rows.in_use();
        let n = rows.n_tokens() as u64;
        let of_channels = if self.has_channels { 3 * 4 * kv.n_heads * kv.row_len } else { 0 };
        let n_recent = self.recent.len() as u64;
        Bytes {
            pages: (0..4).map(of_tier).sum(),
            rows: n_held * of_rows,
            tables: 4 * (n_pages.iter().sum::<u64>() + n_held + n_recent) + of_channels,
            policy: 16 * kv.n_heads * n,
            bf16: 2 * 2 * kv.n_heads * kv.row_len * n + 4 * n.div_ceil(kv.page_size),
        }
    }

    /// What channels are relative to: of the first tokens, and of all others too.
    fn measure(&mut self, queue: &Queue, rows: &Rows) -> Result<()> {
        self.has_channels = true;
        let measured = MeasuredRows { indices: self.measured.view(), counts: None };
        let [scales, offsets, of_values] = self.channels.each_mut().map(|x| Some(x.view_mut()));
        let mut keys = ChannelViewsMut { scales, offsets };
        let mut values = ChannelViewsMut { scales: of_values, offsets: None };
        let workspace = &mut self.channels_workspace.view_mut();
        let (plan, cache) = (&self.channels_plan, rows.view());
        measure_channels(queue, plan, &cache, &measured, workspace, &mut keys, &mut values)
    }

    /// Which token is at each position, until the next re-tiering.
    fn upload_positions(&mut self, queue: &Queue) -> Result<()> {
        let first = self.first_row as i32;
        let recent: Vec<_> = (first..first + self.recent.len() as i32).collect();
        queue.upload_into(&recent, &mut self.recent.view_mut())?;
        let n_slots = PAGE * self.attend.pages().shape().n_pages as usize;
        let mut tokens = Vec::with_capacity(self.tokens.len());
        for pages in self.places.heads() {
            let end = tokens.len() + n_slots;
            tokens.extend(pages.iter().flat_map(|page| &page.tokens));
            tokens.resize(end, -1);
            tokens.extend(0..self.settings.n_sinks as i32);
            tokens.extend(&recent);
        }
        queue.upload_into(&tokens, &mut self.tokens.view_mut())
    }
}

impl Settings {
    /// So many tokens there are when first pages are made, at least.
    fn first_retier(&self) -> usize {
        self.n_sinks + self.n_window + self.n_between.max(PAGE)
    }

    /// Rows that are numbers, beside sinks, at most.
    pub fn most_recent(&self) -> usize {
        self.n_window + PAGE + self.n_between.max(PAGE) + self.n_new
    }
}

/// A cache after some tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// All of them.
    pub n_tokens: usize,
    /// Tokens of a head that are not in pages.
    pub n_numbers: usize,
    /// And that have 16, 8, 4 and 2 bits.
    pub n_of_tiers: [usize; 4],
    /// What they cost.
    pub bytes: Bytes,
    /// Bits of each element of keys and values.
    pub bits: f64,
    /// Of attention's outputs, relative to those in f64: the root of the mean square since the sample before.
    pub error: f64,
}

/// Streams a context through a cache, a step for each output of `exact`. A probe is every other step; `look` is called after each re-tiering.
pub fn run(
    queue: &Queue,
    stream: &Stream,
    exact: &[Vec<f64>],
    settings: Settings,
    n_sample: usize,
    mut look: impl FnMut(&TieredKv, &Rows) -> Result<()>,
) -> Result<Vec<Sample>> {
    let Sizes { n_tokens, n_q_heads, n_heads, head_dim: d, .. } = stream.sizes;
    let page_size = 16;
    // The engine's pool has no room for all tokens: what is in pages of tiers gives rows back.
    let n_held =
        settings.n_sinks.div_ceil(page_size) + settings.most_recent().div_ceil(page_size) + 2;
    let shape = KvShape {
        batch: 1,
        n_heads: n_heads as u64,
        row_len: d as u64,
        n_pages: n_held as u64,
        page_size: page_size as u64,
        table_stride: n_tokens.div_ceil(page_size) as u64,
        ..KvShape::default()
    };
    let layout = KvLayout::new(shape.hnd())?;
    let mut rows = Rows::new(queue, layout)?;
    let mut kv = TieredKv::new(queue, layout, settings, &stream.cos_sin)?;
    rows.hold(queue, kv.held())?;
    let mut samples = Vec::new();
    let mut errors = Vec::new();
    for (i, exact) in exact.iter().enumerate() {
        let (first, n) = (i * settings.n_new, settings.n_new);
        let of_tokens = first * n_heads * d..(first + n) * n_heads * d;
        let keys = queue.upload(&stream.keys[of_tokens.clone()])?;
        let values = queue.upload(&stream.values[of_tokens])?;
        let queries =
            queue.upload(&stream.queries[(first + n - 1) * n_q_heads * d..][..n_q_heads * d])?;
        let step = Step {
            keys: keys.view(),
            values: values.view(),
            queries: queries.view(),
            is_probe: i % 2 == 0,
        };
        kv.step(queue, &mut rows, step)?;
        errors.push(relative_error(&queue.download(&kv.outputs())?, exact));
        let first_row = kv.first_row;
        kv.retier(queue, &mut rows)?;
        if first_row != kv.first_row {
            look(&kv, &rows)?;
        }
        if rows.n_tokens().is_multiple_of(n_sample) {
            samples.push(kv.sample(&rows, &errors));
            errors.clear();
        }
    }
    assert_eq!(kv.missing_page(queue)?, None, "all tables are of this program");
    Ok(samples)
}

impl TieredKv {
    fn sample(&self, rows: &Rows, errors: &[f64]) -> Sample {
        let kv = *rows.layout().shape();
        let (n_tokens, bytes) = (rows.n_tokens(), self.bytes(rows));
        let n_pages = self.places.n_pages().map(|n| n / 2 / kv.n_heads);
        let n_of_tiers = n_pages.map(|n| PAGE * n as usize);
        let squares: f64 = errors.iter().map(|error| error * error).sum();
        Sample {
            n_tokens,
            n_numbers: n_tokens - n_of_tiers.iter().sum::<usize>(),
            n_of_tiers,
            bytes,
            bits: 8.0 * bytes.cache() as f64
                / (2 * kv.n_heads * kv.row_len * n_tokens as u64) as f64,
            error: (squares / errors.len() as f64).sqrt(),
        }
    }
}

/// Attention in f64 after each `n_new` tokens, up to `n_tokens`.
pub fn exact(stream: &Stream, n_new: usize, n_tokens: usize) -> Vec<Vec<f64>> {
    (n_new..=n_tokens).step_by(n_new).map(|n| stream.attention(n - 1)).collect()
}

/// The stream of the program. When queries begin to ask for something else, what they attend to at first is among tokens that had not
/// mattered: there the error of few bits is greatest.
pub const SIZES: Sizes =
    Sizes { n_tokens: 4096, n_q_heads: 8, n_heads: 2, head_dim: 64, n_topic: 1024, seed: 12 };
/// And its cache: 10 % of 8 bits, 50 % of 4 and 40 % of 2.
pub const SETTINGS: Settings = Settings {
    n_q_heads: SIZES.n_q_heads as u64,
    n_new: 32,
    n_sinks: 4,
    n_window: 128,
    n_between: 128,
    shares: [0.0, 0.1, 0.5, 0.4],
    decay: 0.95,
};
/// The caches that the program has.
pub const NAMES: [&str; 3] = ["all 16 bits", "all 4 bits", "8, 4 and 2 bits"];
/// What of their tokens has 16, 8, 4 and 2 bits.
pub const SHARES: [[f64; 4]; 3] = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], SETTINGS.shares];

/// The table of a cache.
pub fn table(name: &str, samples: &[Sample]) -> String {
    let mut table = format!(
        "{name}\n tokens  numbers   16   8     4     2 bits   bits/element   KB   of bf16   policy KB   relative error\n"
    );
    for sample in samples {
        let [of_16, of_8, of_4, of_2] = sample.n_of_tiers;
        let kb = |n_bytes: u64| n_bytes as f64 / 1e3;
        table += &format!(
            "{:>7} {:>8} {of_16:>4} {of_8:>3} {of_4:>5} {of_2:>5} {:>19} {:>6.1} {:>8.1} % {:>10.1} {:>16}\n",
            sample.n_tokens,
            sample.n_numbers,
            short(sample.bits),
            kb(sample.bytes.cache()),
            100.0 * sample.bytes.cache() as f64 / sample.bytes.bf16 as f64,
            kb(sample.bytes.policy),
            short(sample.error),
        );
    }
    table
}

/// Three caches of one stream, as a picture.
pub fn picture_of(samples: &[Vec<Sample>]) -> String {
    let tokens: Vec<_> = samples[0].iter().map(|sample| sample.n_tokens).collect();
    let lines = |of: fn(&Sample) -> f64| -> Vec<Vec<f64>> {
        samples.iter().map(|samples| samples.iter().map(of).collect()).collect()
    };
    let panels = [
        Panel { title: "bits per element", end: 20.0, step: 4.0, lines: lines(|s| s.bits) },
        Panel {
            title: "KB of the cache",
            end: 2400.0,
            step: 600.0,
            lines: lines(|s| s.bytes.cache() as f64 / 1e3),
        },
        Panel {
            title: "relative error of attention",
            end: 0.3,
            step: 0.1,
            lines: lines(|s| s.error),
        },
    ];
    draw("A context of 4,096 tokens through a tiered cache", &NAMES, &tokens, &panels)
}

/// The three caches of the program, as far as `n_tokens`.
pub fn all(queue: &Queue, n_tokens: usize) -> Result<Vec<Vec<Sample>>> {
    let stream = Stream::new(SIZES);
    let exact = exact(&stream, SETTINGS.n_new, n_tokens);
    let samples =
        |shares| run(queue, &stream, &exact, Settings { shares, ..SETTINGS }, 256, |_, _| Ok(()));
    SHARES.into_iter().map(samples).collect()
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let path = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => None,
        ["--svg", path] => Some(path),
        _ => return Err("usage: tiered_kv [--svg PATH]".into()),
    };
    let queue = Device::open(0)
        .and_then(|device| device.queue())
        .unwrap_or_else(|_| Queue::simt(Config::default()));
    println!("on the {}", queue.executor());
    let samples = all(&queue, SIZES.n_tokens)?;
    for (name, samples) in NAMES.iter().zip(&samples) {
        println!("{}", table(name, samples));
    }
    if let Some(path) = path {
        std::fs::write(path, picture_of(&samples))?;
    }
    Ok(())
}
