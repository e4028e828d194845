//! What the recipes' programs share: a queue, a cache of keys with something to find in it, and a count of bytes.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::missing_errors_doc,
    reason = "programs and tests use their parts"
)]

use half::bf16;
use lacuna::kv::{KvLayout, KvShape, KvView, KvViewMut};
use lacuna::select::{self, CompactInputs, CompactOutputs, CompactPlan, CompactShape};
use lacuna::simt::{Config, Recorder};
use lacuna::{Buffer, Device, Queue, Result, View};

/// A queue: of a CUDA device where there is one, else of the SIMT executor, which counts what is read.
pub struct Machine {
    pub queue: Queue,
    recorder: Option<Recorder>,
}

impl Machine {
    pub fn open() -> Self {
        let (queue, recorder) = match Device::open(0).and_then(|device| device.queue()) {
            Ok(queue) => (queue, None),
            Err(_) => {
                let recorder = Recorder::default();
                let config = Config { recorder: Some(recorder.clone()), ..Config::default() };
                (Queue::simt(config), Some(recorder))
            }
        };
        println!("on the {}", queue.executor());
        Self { queue, recorder }
    }

    /// Says what was read since the last time, beside what dense attention reads and what attention to the
    /// selected tokens does.
    pub fn report(&self, dense_bytes: u64, selected_bytes: u64) {
        match self.take_read_bytes() {
            Some(n_bytes) => print!("selecting read {:.3} MB, ", mb(n_bytes)),
            None => print!("selecting was not counted on a GPU, "),
        }
        println!(
            "attention reads {:.3} MB; dense, it reads {:.3} MB",
            mb(selected_bytes),
            mb(dense_bytes)
        );
    }

    /// The same where all of it was launched, attention too.
    pub fn report_step(&self, dense_bytes: u64) {
        match self.take_read_bytes() {
            Some(n_bytes) => print!("that read {:.3} MB; ", mb(n_bytes)),
            None => print!("that was not counted on a GPU; "),
        }
        println!("dense, attention reads {:.3} MB", mb(dense_bytes));
    }

    fn take_read_bytes(&self) -> Option<u64> {
        let recorder = self.recorder.as_ref()?;
        Some(recorder.take().iter().map(|launch| launch.read_bytes()).sum())
    }
}

fn mb(n_bytes: u64) -> f64 {
    n_bytes as f64 / 1e6
}

/// A mask of rows, and what makes lists of it.
pub struct Mask {
    pub kept: Buffer<u8>,
    compact: CompactPlan,
    workspace: Buffer<u32>,
}

impl Mask {
    pub fn new(queue: &Queue, shape: CompactShape) -> Result<Self> {
        let compact = CompactPlan::new(shape)?;
        let kept = queue.alloc(compact.mask_len() as usize)?;
        Ok(Self { kept, workspace: queue.alloc(compact.workspace_len() as usize)?, compact })
    }

    /// Lists what the shape says, ascending, then -1; and how many they are.
    pub fn list(
        &mut self,
        queue: &Queue,
        lengths: View<'_, u32>,
        (indices, counts): (&mut Buffer<i32>, &mut Buffer<u32>),
    ) -> Result<()> {
        let kept = self.kept.view();
        let inputs = CompactInputs { lengths: Some(lengths), ..CompactInputs::whole(kept) };
        let (indices, counts) = (indices.view_mut(), counts.view_mut());
        let workspace = self.workspace.view_mut();
        let mut outputs =
            CompactOutputs { indices, counts, offsets: None, row_starts: None, workspace };
        select::compact_rows(queue, &self.compact, &inputs, &mut outputs)
    }
}

/// Numbers from a seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize * n) >> 31
    }

    /// Nearly normal, of variance 1.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.below(1 << 24) as f32 / (1 << 24) as f32).sum::<f32>() - 6.0
    }

    /// A row of such numbers.
    pub fn row(&mut self, n: usize) -> Vec<bf16> {
        (0..n).map(|_| bf16::from_f32(self.normal())).collect()
    }

    /// Numbers below `n` in a random order.
    pub fn order(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<_> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// `[n, n_columns]`: numbers nearly normal, of variance 1, in so many directions alone.
pub fn low_rank(n: usize, n_columns: usize, rank: usize, random: &mut Random) -> Vec<f32> {
    let scale = (rank as f32).sqrt().recip();
    let mut row = |n: usize| -> Vec<f32> { (0..n).map(|_| random.normal()).collect() };
    let directions: Vec<_> = (0..rank).map(|_| row(n_columns)).collect();
    let mut all = Vec::with_capacity(n * n_columns);
    for _ in 0..n {
        let parts = row(rank);
        let sum = |c: usize| -> f32 {
            parts.iter().zip(&directions).map(|(part, direction)| part * direction[c]).sum()
        };
        all.extend((0..n_columns).map(|c| scale * sum(c)));
    }
    all
}

/// Sizes of a cache and of its queries.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub batch: usize,
    /// Tokens that a request may have.
    pub n: usize,
    pub n_q_heads: usize,
    pub n_heads: usize,
    pub head_dim: usize,
    pub page_size: usize,
}

/// Keys of random numbers in pages of random places: bf16, `[page_size, n_heads, head_dim]` each.
pub struct Cache {
    pub sizes: Sizes,
    pub layout: KvLayout,
    /// The pools, on the host.
    pub keys: Vec<bf16>,
    pub values: Vec<bf16>,
    pub page_table: Vec<i32>,
    pub lengths: Vec<u32>,
    device: (Buffer<bf16>, Buffer<bf16>, Buffer<i32>, Buffer<u32>),
}

impl Cache {
    pub fn new(queue: &Queue, sizes: Sizes, lengths: &[u32], random: &mut Random) -> Result<Self> {
        let Sizes { batch, n, n_heads, head_dim, page_size, .. } = sizes;
        let n_pages = batch * n.div_ceil(page_size);
        let layout = KvLayout::new(
            KvShape {
                batch: batch as u64,
                n_heads: n_heads as u64,
                row_len: head_dim as u64,
                n_pages: n_pages as u64,
                page_size: page_size as u64,
                table_stride: n.div_ceil(page_size) as u64,
                ..KvShape::default()
            }
            .nhd(),
        )?;
        let keys = random.row(layout.pool_len() as usize);
        let values = random.row(layout.pool_len() as usize);
        let page_table: Vec<_> =
            random.order(n_pages).into_iter().map(|page| page as i32).collect();
        let device = (
            queue.upload(&keys)?,
            queue.upload(&values)?,
            queue.upload(&page_table)?,
            queue.upload(lengths)?,
        );
        Ok(Self { sizes, layout, keys, values, page_table, lengths: lengths.to_vec(), device })
    }

    pub fn view(&self) -> KvView<'_, bf16> {
        KvView {
            layout: self.layout,
            keys: self.device.0.view(),
            values: Some(self.device.1.view()),
            page_table: self.device.2.view(),
            lengths: self.device.3.view(),
            key_scale: 1.0,
            value_scale: 1.0,
        }
    }

    pub fn view_mut(&mut self) -> KvViewMut<'_, bf16> {
        KvViewMut {
            layout: self.layout,
            keys: self.device.0.view_mut(),
            values: Some(self.device.1.view_mut()),
            page_table: self.device.2.view(),
            lengths: self.device.3.view(),
        }
    }

    pub fn key(&self, b: usize, t: usize, h: usize) -> &[bf16] {
        let start = self.layout.locate(&self.page_table, b as u64, t as u64, h as u64);
        &self.keys[start.expect("a page of the cache")..][..self.sizes.head_dim]
    }

    /// Writes keys, on the host: `upload` takes them to the device.
    pub fn set_key(&mut self, b: usize, t: usize, h: usize, key: &[bf16]) {
        let start = self.layout.locate(&self.page_table, b as u64, t as u64, h as u64);
        self.keys[start.expect("a page of the cache")..][..key.len()].copy_from_slice(key);
    }

    /// Writes a request's keys `[n, n_heads * head_dim]`, each as `turn` has it at its position.
    pub fn set_turned_keys(
        &mut self,
        b: usize,
        keys: &[f32],
        turn: impl Fn(&[f32], usize) -> Vec<bf16>,
    ) {
        let Sizes { n_heads, head_dim, .. } = self.sizes;
        for (i, key) in keys.chunks(head_dim).enumerate() {
            let (t, h) = (i / n_heads, i % n_heads);
            self.set_key(b, t, h, &turn(key, t));
        }
    }

    pub fn upload(&mut self, queue: &Queue, lengths: &[u32]) -> Result<()> {
        self.lengths = lengths.to_vec();
        queue.upload_into(&self.keys, &mut self.device.0.view_mut())?;
        queue.upload_into(lengths, &mut self.device.3.view_mut())
    }

    /// Makes token `t` one that the query heads of every group attend to: its keys point where their sum does.
    pub fn plant(&mut self, queries: &[bf16], b: usize, t: usize, strength: f32) {
        let Sizes { n_q_heads, n_heads, head_dim: d, .. } = self.sizes;
        let group = n_q_heads / n_heads;
        for h in 0..n_heads {
            let of_group = &queries[(b * n_q_heads + h * group) * d..][..group * d];
            let sum =
                |c: usize| of_group.iter().skip(c).step_by(d).map(|q| q.to_f32()).sum::<f32>();
            let key: Vec<_> = (0..d).map(|c| bf16::from_f32(strength * sum(c))).collect();
            self.set_key(b, t, h, &key);
        }
    }

    /// Bytes of the keys and values of so many tokens of one head.
    pub fn bytes_of(&self, n_tokens: usize) -> u64 {
        (2 * 2 * n_tokens * self.sizes.head_dim) as u64
    }

    /// Bytes of the keys and values of all tokens and heads.
    pub fn dense_bytes(&self) -> u64 {
        let n_tokens = self.lengths.iter().map(|length| *length as usize).sum();
        self.sizes.n_heads as u64 * self.bytes_of(n_tokens)
    }
}
