//! Pages to copy, and what must become of them.

use lacuna::attention::reference::{self, HostPools};
use lacuna::attention::{
    CopyCheck, CopyInputs, CopyOutputs, CopyPlan, PoolShape, Pools, PoolsLayout, copy_pages,
};
use lacuna::{Error, Queue};

/// What is in memory that no page is in.
const POISON: u32 = 0xA5A5_5EED;

/// Pools of words.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    pub(crate) n_pages: usize,
    /// Words between a page's end and the next page.
    pub(crate) gap: usize,
    /// Words before the first.
    pub(crate) shift: usize,
    pub(crate) is_packed: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) page_lens: Vec<usize>,
    pub(crate) source: Side,
    pub(crate) target: Side,
    pub(crate) n_lists: usize,
    /// Of all lists.
    pub(crate) pairs: Vec<[i32; 2]>,
    pub(crate) counts: Option<Vec<u32>>,
    pub(crate) seed: u64,
    pub(crate) has_checksums: bool,
    pub(crate) has_check: bool,
    pub(crate) most_blocks: u64,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Copied {
    /// All of the targets' buffers.
    pub(crate) targets: Vec<Vec<u32>>,
    pub(crate) checksums: Vec<u64>,
    pub(crate) status: u64,
    /// Whether the workspace is as it was.
    pub(crate) is_ready: bool,
}

fn random(state: &mut u64) -> u32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 32) as u32
}

impl Side {
    pub(crate) fn of(n_pages: usize) -> Self {
        Self { n_pages, gap: 0, shift: 0, is_packed: false }
    }

    pub(crate) fn layout(&self, page_lens: &[usize]) -> Result<PoolsLayout, Error> {
        let shape =
            |len: &usize| PoolShape { page_len: *len as u64, page_stride: (len + self.gap) as u64 };
        let layout =
            PoolsLayout::new(self.n_pages as u64, 4, page_lens.iter().map(shape).collect())?;
        if self.is_packed { layout.packed(self.n_pages as u64) } else { Ok(layout) }
    }

    /// Its buffers, in which these pages are; poison elsewhere.
    fn fill(&self, page_lens: &[usize], pages: &HostPools) -> Vec<Vec<u32>> {
        let lens = self.layout(page_lens).unwrap().lens();
        let new = |len: u64| vec![POISON; self.shift + len as usize];
        let mut buffers: Vec<_> = lens.into_iter().map(new).collect();
        self.visit(page_lens, |buffer, start, pool, page| {
            let words = &pages.pools[pool][page];
            buffers[buffer][start..start + words.len()].copy_from_slice(words);
        });
        buffers
    }

    /// Each page's buffer and start.
    fn visit(&self, page_lens: &[usize], mut visit: impl FnMut(usize, usize, usize, usize)) {
        let all: usize = page_lens.iter().sum();
        let mut first = 0;
        for (pool, len) in page_lens.iter().enumerate() {
            for page in 0..self.n_pages {
                if self.is_packed {
                    visit(0, self.shift + page * all + first, pool, page);
                } else {
                    visit(pool, self.shift + page * (len + self.gap), pool, page);
                }
            }
            first += len;
        }
    }
}

impl Problem {
    /// One list of pairs of any pages, no target twice.
    pub(crate) fn new(page_lens: &[usize], n_pairs: usize, seed: u64) -> Self {
        let mut state = seed;
        let mut targets: Vec<_> = (0..n_pairs as i32 + 3).collect();
        for i in (1..targets.len()).rev() {
            targets.swap(i, random(&mut state) as usize % (i + 1));
        }
        let mut pair = |target: &i32| [(random(&mut state) % 5) as i32, *target];
        Self {
            page_lens: page_lens.to_vec(),
            source: Side::of(5),
            target: Side::of(n_pairs + 3),
            n_lists: 1,
            pairs: targets[..n_pairs].iter().map(&mut pair).collect(),
            counts: None,
            seed,
            has_checksums: true,
            has_check: true,
            most_blocks: u64::MAX,
        }
    }

    pub(crate) fn pages(&self, n_pages: usize, seed: u64) -> HostPools {
        let mut state = self.seed ^ seed;
        let mut page = |len: usize| (0..len).map(|_| random(&mut state)).collect();
        let pool = |len: &usize| (0..n_pages).map(|_| page(*len)).collect();
        HostPools { pools: self.page_lens.iter().map(pool).collect() }
    }

    pub(crate) fn sources(&self) -> HostPools {
        self.pages(self.source.n_pages, 1)
    }

    pub(crate) fn targets(&self) -> HostPools {
        self.pages(self.target.n_pages, 2)
    }

    pub(crate) fn n_pairs(&self) -> usize {
        self.pairs.len() / self.n_lists
    }

    pub(crate) fn plan(&self) -> Result<CopyPlan, Error> {
        let [sources, targets] =
            [&self.source, &self.target].map(|side| side.layout(&self.page_lens).unwrap());
        CopyPlan::new(self.n_lists as u64, self.n_pairs() as u64, &sources, &targets)
            .map(|plan| plan.with_blocks(self.most_blocks))
    }

    /// Its pairs, those that no list counts as of no page.
    pub(crate) fn counted(&self) -> Vec<[i32; 2]> {
        let count = |list: usize| self.counts.as_ref().map_or(u32::MAX, |counts| counts[list]);
        let counted = |(i, pair): (usize, &[i32; 2])| {
            let (list, place) = (i / self.n_pairs(), i % self.n_pairs());
            if (place as u32) < count(list) { *pair } else { [-1; 2] }
        };
        self.pairs.iter().enumerate().map(counted).collect()
    }

    pub(crate) fn expect(&self) -> Copied {
        let mut targets = self.targets();
        let checksums = reference::copy_pages(&self.sources(), &mut targets, &self.counted());
        let targets = self.target.fill(&self.page_lens, &targets);
        let unasked = vec![u64::from(POISON); checksums.len()];
        Copied {
            targets,
            checksums: if self.has_checksums { checksums } else { unasked },
            status: 0,
            is_ready: true,
        }
    }

    /// The pages' sums.
    pub(crate) fn sums(&self) -> Vec<u64> {
        reference::copy_pages(&self.sources(), &mut self.targets(), &self.counted())
    }

    /// As `expected` are what the checksums are held against.
    pub(crate) fn run(&self, queue: &Queue, expected: &[u64]) -> Result<Copied, Error> {
        let plan = self.plan()?;
        let upload = |side: &Side, pages: &HostPools| {
            let buffers = side.fill(&self.page_lens, pages);
            buffers.iter().map(|words| queue.upload(words)).collect::<Result<Vec<_>, Error>>()
        };
        let mut sources = upload(&self.source, &self.sources())?;
        let mut targets = upload(&self.target, &self.targets())?;
        let pairs = queue.upload(bytemuck::cast_slice::<[i32; 2], i32>(&self.pairs))?;
        let counts = self.counts.as_ref().map(|counts| queue.upload(counts)).transpose()?;
        let mut checksums = queue.upload(&vec![u64::from(POISON); self.pairs.len()])?;
        let expected = queue.upload(expected)?;
        let mut status = queue.alloc::<u64>(1)?;
        let mut workspace = queue.alloc::<u64>(plan.workspace_len() as usize)?;
        let mut all: Vec<_> = sources.iter_mut().map(|pool| pool.view_mut()).collect();
        let shift = self.source.shift;
        let views = all.iter_mut().map(|pool| pool.slice_mut(shift..pool.len()));
        let views = views.collect::<Result<Vec<_>, Error>>()?;
        let from = Pools::borrow(queue, self.source.layout(&self.page_lens)?, views)?;
        let mut whole: Vec<_> = targets.iter_mut().map(|pool| pool.view_mut()).collect();
        let shift = self.target.shift;
        let views = whole.iter_mut().map(|pool| pool.slice_mut(shift..pool.len()));
        let views = views.collect::<Result<Vec<_>, Error>>()?;
        let mut to = Pools::borrow(queue, self.target.layout(&self.page_lens)?, views)?;
        let inputs = CopyInputs { pairs: pairs.view(), counts: counts.as_ref().map(|c| c.view()) };
        // What one launch leaves, the next finds.
        for is_summed in [true, false, true] {
            let mut outputs = CopyOutputs::default();
            if is_summed {
                let check = CopyCheck { expected: expected.view(), status: status.view_mut() };
                outputs = CopyOutputs {
                    checksums: self.has_checksums.then(|| checksums.view_mut()),
                    check: self.has_check.then_some(check),
                    workspace: Some(workspace.view_mut()),
                };
            }
            copy_pages(queue, &plan, &from, &mut to, &inputs, &mut outputs)?;
        }
        let is_ready = queue.download(&workspace.view())?.iter().all(|word| *word == 0);
        let targets =
            targets.iter().map(|pool| queue.download(&pool.view())).collect::<Result<_, _>>()?;
        Ok(Copied {
            targets,
            checksums: queue.download(&checksums.view())?,
            status: queue.download(&status.view())?[0],
            is_ready,
        })
    }
}
