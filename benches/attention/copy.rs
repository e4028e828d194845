//! Pages copied between pools: on the CPU, and by the kernel.

use criterion::{Criterion, Throughput};
use lacuna::attention::reference::checksum;
use lacuna::attention::{
    CopyInputs, CopyOutputs, CopyPlan, PoolShape, Pools, PoolsLayout, copy_pages,
};
use lacuna::{Buffer, Queue};

use crate::house::case::{Budget, Case, Problem, Work};

fn random_words(n: usize, seed: u64) -> Vec<u32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    (0..n).map(|_| random()).collect()
}

pub(crate) fn cpu(criterion: &mut Criterion) {
    let words = random_words(1 << 18, 1);
    let mut bench = criterion.benchmark_group("attention");
    bench.throughput(Throughput::Bytes(1 << 20)).sample_size(10);
    bench.bench_function("reference/checksum/1MiB", |b| b.iter(|| checksum(words.iter().copied())));
    bench.finish();
}

/// What a copy over the bus leaves to others is the rest.
const FEW_BLOCKS: u64 = 64;

/// Where pages come from and go to.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Across,
    Pack,
    Unpack,
    FromHost,
}

/// `copy_pages` of `n_pairs` scattered pages of `page_words` in each of `n_pools`.
#[derive(Clone, Copy)]
struct Copy {
    way: Way,
    n_pairs: usize,
    n_pools: usize,
    page_words: usize,
    is_summed: bool,
    is_small: bool,
}

struct Pages {
    case: Copy,
    sources: Vec<Vec<u32>>,
    expected: Vec<u8>,
}

impl Case for Copy {
    fn kernel(&self) -> &'static str {
        "attention/copy_pages"
    }

    fn shape(&self) -> String {
        let way = match self.way {
            Way::Across => "",
            Way::Pack => ", packed",
            Way::Unpack => ", unpacked",
            Way::FromHost => ", from pinned memory by 64 blocks",
        };
        let sums = if self.is_summed { ", and sums" } else { "" };
        let n_bytes = 4 * self.page_words;
        format!("{} pages of {n_bytes} bytes in {} pools{way}{sums}", self.n_pairs, self.n_pools)
    }

    fn is_small(&self) -> bool {
        self.is_small
    }

    fn budget(&self) -> Budget {
        // Each chunk reads its pair and two rows of tables.
        // A page of 656 bytes lies at no multiple of a sector.
        let bytes = if self.page_words < 256 { 1.25 } else { 1.04 };
        Budget { bytes, sectors_per_request: 16.0, conflict_ways: 1.0, barriers: 0.0 }
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let lens = self.layout(self.way == Way::Unpack).lens();
        let fill = |(i, len): (u64, &u64)| random_words(*len as usize, i + 1);
        let sources: Vec<_> = (0..).zip(&lens).map(fill).collect();
        let mut targets: Vec<Vec<u32>> =
            vec![vec![0; self.page_words * self.n_pairs]; self.n_pools];
        let mut sums = Vec::new();
        for [source, target] in self.pairs() {
            let (source, target) = (source as usize, target as usize);
            let pages: Vec<_> = (0..self.n_pools)
                .map(|pool| match self.way {
                    Way::Unpack => &sources[0][(source * self.n_pools + pool) * self.page_words..],
                    _ => &sources[pool][source * self.page_words..],
                })
                .map(|words| &words[..self.page_words])
                .collect();
            for (pool, page) in targets.iter_mut().zip(&pages) {
                pool[target * self.page_words..][..self.page_words].copy_from_slice(page);
            }
            if self.is_summed {
                sums.push(checksum(pages.into_iter().flatten().copied()));
            }
        }
        let mut expected = Vec::new();
        match self.way {
            Way::Pack => {
                for page in 0..self.n_pairs {
                    for pool in &targets {
                        let words = &pool[page * self.page_words..][..self.page_words];
                        expected.extend_from_slice(bytemuck::cast_slice(words));
                    }
                }
            }
            _ => targets
                .iter()
                .for_each(|pool| expected.extend_from_slice(bytemuck::cast_slice(pool))),
        }
        expected.extend_from_slice(bytemuck::cast_slice(&sums));
        Box::new(Pages { case: *self, sources, expected })
    }
}

impl Copy {
    fn layout(&self, is_packed: bool) -> PoolsLayout {
        let len = self.page_words as u64;
        let pools = vec![PoolShape { page_len: len, page_stride: len }; self.n_pools];
        let n_pages = self.n_pairs as u64;
        PoolsLayout::new(n_pages, 4, pools)
            .and_then(|layout| if is_packed { layout.packed(n_pages) } else { Ok(layout) })
            .expect("a layout that is supported")
    }

    /// Every page once, out of order where it is scattered.
    fn pairs(&self) -> Vec<[i32; 2]> {
        let n = self.n_pairs as i32;
        let step = (n / 3 + 1..).find(|step| gcd(*step, n) == 1).unwrap_or(1);
        let scattered = |i: i32| (i64::from(i) * i64::from(step) % i64::from(n)) as i32;
        let pair = |i| match self.way {
            Way::Unpack => [i, scattered(i)],
            _ => [scattered(i), i],
        };
        (0..n).map(pair).collect()
    }
}

fn gcd(a: i32, b: i32) -> i32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Problem for Pages {
    fn least_bytes(&self) -> u64 {
        let Copy { way, n_pairs, is_summed, .. } = self.case;
        let [sources, targets] = [Way::Unpack, Way::Pack].map(|at| self.case.layout(way == at));
        let plan = CopyPlan::new(1, n_pairs as u64, &sources, &targets).expect("a sound plan");
        plan.least_bytes(u64::from(is_summed))
    }

    fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let last = Launch::new(self, queue, 3)?;
        Ok(vec![("after three pairs of no page".to_owned(), Box::new(last))])
    }
}

struct Launch {
    case: Copy,
    plan: CopyPlan,
    sources: Pools<'static, u32>,
    targets: Pools<'static, u32>,
    pairs: Buffer<i32>,
    sums: Buffer<u64>,
    workspace: Buffer<u64>,
}

impl Launch {
    fn new(pages: &Pages, queue: &Queue, n_more: usize) -> lacuna::Result<Self> {
        let case = pages.case;
        let sources = case.layout(case.way == Way::Unpack);
        let targets = case.layout(case.way == Way::Pack);
        let n_pairs = case.n_pairs + n_more;
        let mut plan = CopyPlan::new(1, n_pairs as u64, &sources, &targets)?;
        if case.way == Way::FromHost {
            plan = plan.with_blocks(FEW_BLOCKS);
        }
        let upload = |words: &Vec<u32>| {
            let mut buffer = match case.way {
                Way::FromHost => queue.alloc_pinned(words.len())?,
                _ => queue.alloc(words.len())?,
            };
            queue.upload_into(words, &mut buffer.view_mut())?;
            Ok(buffer)
        };
        let from = pages.sources.iter().map(upload).collect::<lacuna::Result<_>>()?;
        let to = targets.lens().into_iter().map(|len| queue.alloc(len as usize));
        let to = to.collect::<lacuna::Result<_>>()?;
        let pairs = [vec![[-1; 2]; n_more], case.pairs()].concat();
        let n_sums = if case.is_summed { n_pairs } else { 0 };
        Ok(Self {
            case,
            plan,
            sources: Pools::new(queue, sources, from)?,
            targets: Pools::new(queue, targets, to)?,
            pairs: queue.upload(bytemuck::cast_slice::<[i32; 2], i32>(&pairs))?,
            sums: queue.alloc(n_sums)?,
            workspace: queue.alloc(2 * n_sums)?,
        })
    }

    fn n_targets(&self) -> usize {
        self.targets.layout().lens().len()
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let is_summed = self.case.is_summed;
        let mut outputs = CopyOutputs {
            checksums: is_summed.then(|| self.sums.view_mut()),
            check: None,
            workspace: is_summed.then(|| self.workspace.view_mut()),
        };
        let inputs = CopyInputs { pairs: self.pairs.view(), counts: None };
        copy_pages(queue, &self.plan, &self.sources, &mut self.targets, &inputs, &mut outputs)
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        for pool in 0..self.n_targets() {
            let mut view = self.targets.view_mut(pool)?;
            queue.upload_into(&vec![0xA5A5_A5A5; view.len()], &mut view)?;
        }
        crate::house::case::poison(queue, &mut self.sums)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let mut output = Vec::new();
        for pool in 0..self.n_targets() {
            let words = queue.download(&self.targets.view(pool)?)?;
            output.extend_from_slice(bytemuck::cast_slice(&words));
        }
        let sums = queue.download(&self.sums.view())?;
        let first = sums.len().saturating_sub(self.case.n_pairs);
        output.extend_from_slice(bytemuck::cast_slice(&sums[first..]));
        Ok(output)
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    let cases = [
        (Way::Across, 6, 4, 2048, false, true),
        (Way::Pack, 9, 3, 1024, true, true),
        (Way::Unpack, 5, 2, 4096, true, true),
        // A token of latent attention, in fp8 with its scales.
        (Way::FromHost, 200, 1, 164, false, true),
        (Way::Across, 64, 64, 8192, false, false),
        (Way::Pack, 64, 64, 8192, true, false),
        (Way::Unpack, 64, 64, 8192, true, false),
        (Way::Across, 2048, 1, 1024, false, false),
        (Way::FromHost, 2048, 1, 1024, false, false),
        (Way::FromHost, 2048, 1, 164, false, false),
    ];
    let to_case = |(way, n_pairs, n_pools, page_words, is_summed, is_small)| {
        Box::new(Copy { way, n_pairs, n_pools, page_words, is_summed, is_small }) as _
    };
    cases.map(to_case).into()
}
