//! New tokens and caches, and what must become of them.

use half::bf16;
use lacuna::element::{Half, Real};
use lacuna::quant::reference::{Appended, HostRows, HostTokens, append};
use lacuna::quant::{AppendOutputs, AppendPlan, AppendShape, NewTokens, Turn, append_kv};
use lacuna::{Buffer, Error, Queue};

use crate::cache::{
    Cache, layout_of, pages_for, scatter, shuffled_table, upload_both, upload_some,
};
use crate::common::Random;

/// What proptest and tables vary.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    /// Of each request, those that are there.
    pub(crate) lengths: Vec<u32>,
    pub(crate) n_tokens: u64,
    pub(crate) n_heads: u64,
    pub(crate) head_dim: u64,
    pub(crate) page_size: u64,
    /// Pages that a request's table holds beyond what the longest needs.
    pub(crate) n_more_pages: u64,
    pub(crate) is_hnd: bool,
    pub(crate) turn: Turn,
    pub(crate) rotary_dim: u64,
    pub(crate) n_positions: u64,
    /// Elements between tokens.
    pub(crate) gap: u64,
    pub(crate) has_counts: bool,
    pub(crate) has_keeps: bool,
    pub(crate) has_positions: bool,
    pub(crate) block_tokens: Option<u64>,
    /// Wild counts, lengths, positions, pages and numbers.
    pub(crate) is_hostile: bool,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            seed: 1,
            lengths: vec![5, 0, 31],
            n_tokens: 20,
            n_heads: 2,
            head_dim: 32,
            page_size: 16,
            n_more_pages: 2,
            is_hnd: true,
            turn: Turn::Halves,
            rotary_dim: 32,
            n_positions: 64,
            gap: 8,
            has_counts: true,
            has_keeps: true,
            has_positions: true,
            block_tokens: None,
            is_hostile: false,
        }
    }
}

/// All that a launch takes.
#[derive(Debug, Clone)]
pub(crate) struct Problem<T> {
    pub(crate) plan: AppendPlan,
    /// New ones: keys and values.
    pub(crate) tokens: [Vec<T>; 2],
    /// As it is before.
    pub(crate) cache: Cache<T>,
    pub(crate) counts: Option<Vec<u32>>,
    pub(crate) keeps: Option<Vec<u32>>,
    pub(crate) positions: Option<Vec<i32>>,
    pub(crate) cos_sin: Vec<f32>,
}

/// What a launch leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Left {
    /// Bits of keys and values.
    pub(crate) rows: [Vec<u16>; 2],
    pub(crate) appended: Appended,
}

impl Case {
    pub(crate) fn plan(&self) -> Result<AppendPlan, Error> {
        let sizes = [self.lengths.len() as u64, self.n_heads, self.head_dim, self.page_size];
        let needed = pages_for(&self.lengths, self.page_size).max(1);
        let layout = layout_of(sizes, needed + self.n_more_pages, self.is_hnd)?;
        let shape = AppendShape::of(layout, self.n_tokens);
        let plan = AppendPlan::new(AppendShape {
            key_stride: shape.key_stride + self.gap,
            value_stride: shape.value_stride + 2 * self.gap,
            turn: self.turn,
            rotary_dim: self.rotary_dim,
            n_positions: self.n_positions,
            ..shape
        })?;
        match self.block_tokens {
            Some(block_tokens) => plan.with_block_tokens(block_tokens),
            None => Ok(plan),
        }
    }

    /// A prompt of more tiles than a block has threads, of which it keeps one in 97.
    pub(crate) fn of_many_tiles() -> Problem<bf16> {
        let case = Self {
            lengths: vec![3],
            n_tokens: 132_000,
            n_heads: 1,
            head_dim: 8,
            page_size: 256,
            n_more_pages: 8,
            turn: Turn::None,
            gap: 0,
            has_counts: false,
            has_positions: false,
            block_tokens: Some(128),
            ..Self::default()
        };
        let mut problem = case.build::<bf16>();
        for (i, kept) in problem.keeps.iter_mut().flatten().enumerate() {
            *kept = u32::from(i % 97 == 5);
        }
        problem
    }

    pub(crate) fn build<T: Half + Real>(&self) -> Problem<T> {
        let plan = self.plan().unwrap();
        let layout = plan.shape().layout;
        let mut random = Random(self.seed);
        let page_table = shuffled_table(&layout, &mut random);
        let mut numbers =
            |n: u64| -> Vec<T> { (0..n).map(|_| T::from_f32(random.normal() * 3.0)).collect() };
        let mut tokens = [numbers(plan.keys_len()), numbers(plan.values_len())];
        let rows = [numbers(layout.pool_len()), numbers(layout.pool_len())];
        let lengths = self.lengths.clone();
        let mut cache = Cache { layout, rows, page_table, lengths };
        let n = self.n_tokens;
        let mut counts = self.has_counts.then(|| {
            self.lengths.iter().map(|_| (random.next() % (n + 2)) as u32).collect::<Vec<_>>()
        });
        let keeps = self.has_keeps.then(|| {
            (0..plan.tokens_len())
                .map(|_| [0, 1, 1, 0x8000_0000, 256][random.next() as usize % 5])
                .collect::<Vec<u32>>()
        });
        let mut positions = self.has_positions.then(|| {
            (0..plan.tokens_len())
                .map(|_| (random.next() % self.n_positions.max(1)) as i32)
                .collect::<Vec<_>>()
        });
        let cos_sin = (0..plan.cos_sin_len()).map(|_| random.number()).collect();
        if self.is_hostile {
            // Holes in tables, some of them within what is appended.
            for (i, page) in cache.page_table.iter_mut().enumerate() {
                if random.next().is_multiple_of(5) {
                    *page = [-1, i32::MIN, i32::MAX, layout.shape().n_pages as i32][i % 4];
                }
            }
            cache.lengths[0] = [u32::MAX, 1 << 26, layout.n_rows() as u32, u32::MAX - 3]
                [random.next() as usize % 4];
            if let Some(counts) = &mut counts {
                *counts.last_mut().unwrap() = u32::MAX;
            }
            let wild = [-1, i32::MIN, i32::MAX, self.n_positions as i32];
            scatter(positions.iter_mut().flatten(), 3, &wild);
            let hostile = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38, -1e-40, -0.0];
            for tokens in &mut tokens {
                scatter(&mut *tokens, 7, &hostile.map(T::from_f32));
                // No number, of bits that arithmetic does not leave.
                scatter(tokens, 31, &[bytemuck::cast(0xFFC1_u16)]);
            }
        }
        Problem { plan, tokens, cache, counts, keeps, positions, cos_sin }
    }
}

fn bits<T: Half>(rows: &[T]) -> Vec<u16> {
    rows.iter().map(|element| element.bits()).collect()
}

impl<T: Half + Real> Problem<T> {
    pub(crate) fn expected(&self) -> Left {
        let Cache { mut rows, page_table, lengths, .. } = self.cache.clone();
        let [keys, values] = &mut rows;
        let tokens = HostTokens {
            keys: &self.tokens[0],
            values: &self.tokens[1],
            counts: self.counts.as_deref(),
            keeps: self.keeps.as_deref(),
            positions: self.positions.as_deref(),
            cos_sin: &self.cos_sin,
        };
        let mut cache = HostRows { keys, values, page_table: &page_table, lengths: &lengths };
        let appended = append(&self.plan, &tokens, &mut cache);
        Left { rows: rows.each_ref().map(|rows| bits(rows)), appended }
    }

    pub(crate) fn launch(&self, queue: &Queue) -> Result<Left, Error> {
        self.launch_with(queue, true)
    }

    pub(crate) fn launch_with(&self, queue: &Queue, has_dropped: bool) -> Result<Left, Error> {
        let tokens = upload_both(queue, &self.tokens)?;
        let mut cache = self.cache.upload(queue)?;
        let counts = upload_some(queue, self.counts.as_ref())?;
        let keeps = upload_some(queue, self.keeps.as_ref())?;
        let positions = upload_some(queue, self.positions.as_ref())?;
        let is_turned = self.plan.shape().turn != Turn::None;
        let cos_sin = upload_some(queue, is_turned.then_some(&self.cos_sin))?;
        let n = self.plan.shape().layout.shape().batch as usize;
        let mut new_lengths = queue.upload(&vec![7_u32; n])?;
        let mut dropped = queue.upload(&vec![7_u32; n])?;
        let mut workspace =
            queue.upload(&vec![0xA5A5_A5A5_u32; self.plan.workspace_len() as usize])?;
        let tokens = NewTokens {
            keys: tokens[0].view(),
            values: tokens[1].view(),
            counts: counts.as_ref().map(Buffer::view),
            keeps: keeps.as_ref().map(Buffer::view),
            positions: positions.as_ref().map(Buffer::view),
            cos_sin: cos_sin.as_ref().map(Buffer::view),
        };
        let mut outputs = AppendOutputs {
            new_lengths: new_lengths.view_mut(),
            dropped: has_dropped.then(|| dropped.view_mut()),
            workspace: Some(workspace.view_mut()),
        };
        append_kv(queue, &self.plan, &tokens, &mut cache.view_mut(), &mut outputs)?;
        let appended = Appended {
            new_lengths: queue.download(&new_lengths.view())?,
            dropped: queue.download(&dropped.view())?,
        };
        let rows = cache.download(queue)?.each_ref().map(|rows| bits(rows));
        Ok(Left { rows, appended })
    }
}
