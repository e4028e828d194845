//! Caches and lists, and what is found of their channels.

use lacuna::element::{Half, Real};
use lacuna::kv::KvLists;
use lacuna::quant::reference::{Measured, measure};
use lacuna::quant::{
    ChannelViewsMut, ChannelsPlan, MeasuredRows, PagesPlan, PagesShape, measure_channels,
};
use lacuna::{Buffer, Error, Queue};

use crate::cache::{
    Cache, any_lists, layout_of, list_of, pages_for, scatter, scatter_wild_indices, shuffled_table,
    upload_some,
};
use crate::common::Random;

/// What proptest and tables vary.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) lengths: Vec<u32>,
    pub(crate) n_heads: u64,
    pub(crate) head_dim: u64,
    pub(crate) page_size: u64,
    pub(crate) is_hnd: bool,
    pub(crate) lists: KvLists,
    pub(crate) n_pages: u64,
    pub(crate) span_pages: u64,
    pub(crate) has_counts: bool,
    /// Of keys and of values: scales, and offsets.
    pub(crate) asked: [[bool; 2]; 2],
    /// Wild lists, page tables and numbers.
    pub(crate) is_hostile: bool,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            seed: 1,
            lengths: vec![700, 90],
            n_heads: 2,
            head_dim: 32,
            page_size: 16,
            is_hnd: true,
            lists: KvLists::PerHead,
            n_pages: 11,
            span_pages: 9,
            has_counts: true,
            asked: [[true, true], [true, false]],
            is_hostile: false,
        }
    }
}

/// All that a launch takes.
#[derive(Debug, Clone)]
pub(crate) struct Problem<T> {
    pub(crate) plan: ChannelsPlan,
    pub(crate) asked: [[bool; 2]; 2],
    pub(crate) cache: Cache<T>,
    pub(crate) indices: Vec<i32>,
    pub(crate) counts: Option<Vec<u32>>,
}

/// Scales and offsets of keys, and of values: what was asked for, in bits.
pub(crate) type Found = [[Option<Vec<u32>>; 2]; 2];

impl Case {
    pub(crate) fn plan(&self) -> Result<ChannelsPlan, Error> {
        let sizes = [self.lengths.len() as u64, self.n_heads, self.head_dim, self.page_size];
        let table_stride = pages_for(&self.lengths, self.page_size) + 1;
        let layout = layout_of(sizes, table_stride, self.is_hnd)?;
        let (lists, n_pages, span_pages) = (self.lists, self.n_pages, self.span_pages);
        let pages = PagesShape { lists, span_pages, ..PagesShape::of(layout, n_pages) };
        Ok(ChannelsPlan::new(PagesPlan::new(pages)?))
    }

    pub(crate) fn build<T: Half + Real>(&self) -> Problem<T> {
        let plan = self.plan().unwrap();
        let pages = plan.pages();
        let layout = pages.shape().layout;
        let mut random = Random(self.seed);
        let page_table = shuffled_table(&layout, &mut random);
        // Channels of unlike means and spreads; one in eight is one number, and one in eight zero.
        let d = self.head_dim as usize;
        let rows = [0, 1].map(|part| {
            (0..layout.pool_len() as usize)
                .map(|i| {
                    let c = i % d;
                    let spread = [1.0, 0.25, 8.0, 0.0, 1.0, 0.03, 0.0, 3.0][c % 8];
                    let mean = [0.0, 5.0, -1.0, 2.5, 30.0, 0.5, 0.0, -3.0][(c + part) % 8];
                    let mean = if c % 8 == 6 { 0.0 } else { mean };
                    T::from_f32(random.normal() * spread + mean)
                })
                .collect::<Vec<_>>()
        });
        let n_rows = u64::from(*self.lengths.iter().max().unwrap_or(&1)).max(1);
        let (mut indices, counts) = any_lists(pages, n_rows, self.has_counts, &mut random);
        let mut cache = Cache { layout, rows, page_table, lengths: self.lengths.clone() };
        if self.is_hostile {
            cache.make_wild();
            scatter_wild_indices(&mut indices, n_rows);
            // Whole chains and pieces of nothing.
            for index in indices.iter_mut().skip(1).step_by(8).take(80) {
                *index = -1;
            }
            for index in indices.iter_mut().skip(1024).take(200) {
                *index = i32::MIN;
            }
            let hostile = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38, -3e38, 1e-40, -0.0];
            for rows in &mut cache.rows {
                scatter(&mut *rows, 83, &hostile.map(T::from_f32));
                // A channel of nothing but what is no number, and one of both infinities.
                rows.iter_mut().skip(2).step_by(d).for_each(|x| *x = T::from_f32(f32::NAN));
                rows.iter_mut().skip(9).step_by(d).enumerate().for_each(|(i, x)| {
                    *x = T::from_f32([f32::INFINITY, f32::NEG_INFINITY][i % 2]);
                });
            }
        }
        Problem { plan, asked: self.asked, cache, indices, counts }
    }
}

impl<T: Half + Real> Problem<T> {
    /// What a list's slots name, of one span: rows of keys, or of values.
    pub(crate) fn slots(&self, [b, head, span]: [usize; 3], part: usize) -> Vec<Option<&[T]>> {
        let shape = self.plan.pages().shape();
        let list = list_of(self.plan.pages(), [b, head]);
        let n_slots = 64 * shape.n_pages as usize;
        let count = self.counts.as_ref().map_or(usize::MAX, |counts| counts[list] as usize);
        let first = span * shape.span_pages as usize * 64;
        let end = (first + shape.span_pages as usize * 64).min(n_slots);
        let row = |slot: usize| {
            let row = u64::from(self.indices[list * n_slots + slot] as u32);
            if slot < count { self.cache.row([b, head], row, part) } else { None }
        };
        (first..end).map(row).collect()
    }

    pub(crate) fn measured(&self, at: [usize; 3], part: usize) -> Measured {
        let d = self.plan.pages().shape().layout.shape().row_len as usize;
        measure(&self.slots(at, part), d, self.asked[part][1])
    }

    pub(crate) fn each_span(&self) -> impl Iterator<Item = [usize; 3]> {
        let pages = self.plan.pages();
        let kv = *pages.shape().layout.shape();
        let n_spans = pages.n_spans() as usize;
        (0..kv.batch as usize).flat_map(move |b| {
            (0..kv.n_heads as usize)
                .flat_map(move |head| (0..n_spans).map(move |span| [b, head, span]))
        })
    }

    pub(crate) fn expected(&self) -> Found {
        let of_part = |part: usize| {
            let [mut scales, mut offsets] = [Vec::new(), Vec::new()];
            for at in self.each_span() {
                let measured = self.measured(at, part);
                scales.extend(measured.scales.into_iter().map(f32::to_bits));
                offsets.extend(measured.offsets.into_iter().map(f32::to_bits));
            }
            let [has_scales, has_offsets] = self.asked[part];
            [has_scales.then_some(scales), has_offsets.then_some(offsets)]
        };
        [of_part(0), of_part(1)]
    }

    /// What a second launch with the same workspace leaves.
    pub(crate) fn launch(&self, queue: &Queue) -> Result<Found, Error> {
        let pages = self.plan.pages();
        let cache = self.cache.upload(queue)?;
        let indices = queue.upload(&self.indices)?;
        let counts = upload_some(queue, self.counts.as_ref())?;
        let source = cache.view();
        let rows =
            MeasuredRows { indices: indices.view(), counts: counts.as_ref().map(Buffer::view) };
        // Anything but tickets may be there.
        let mut words = vec![0xA5A5_A5A5_u32; self.plan.workspace_len() as usize];
        words[..self.plan.n_tickets() as usize].fill(0);
        let mut workspace = queue.upload(&words)?;
        let poison = vec![7.0_f32; pages.channels_len() as usize];
        let mut found: Vec<Option<Buffer<f32>>> = self
            .asked
            .iter()
            .flatten()
            .map(|is_asked| is_asked.then(|| queue.upload(&poison)).transpose())
            .collect::<Result<_, _>>()?;
        for _ in 0..2 {
            let mut views = found.iter_mut().map(|found| found.as_mut().map(Buffer::view_mut));
            let [mut keys, mut values] = [(); 2].map(|()| ChannelViewsMut {
                scales: views.next().unwrap(),
                offsets: views.next().unwrap(),
            });
            let workspace = &mut workspace.view_mut();
            measure_channels(queue, &self.plan, &source, &rows, workspace, &mut keys, &mut values)?;
        }
        let mut found = found.into_iter().map(|found| {
            let floats = found.map(|found| queue.download(&found.view()).unwrap());
            floats.map(|floats| floats.into_iter().map(f32::to_bits).collect())
        });
        Ok([(); 2].map(|()| [found.next().unwrap(), found.next().unwrap()]))
    }
}
