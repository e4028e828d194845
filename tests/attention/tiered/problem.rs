//! Problems for `attend_tiered`, and what must come of them.

use std::cell::RefCell;

use half::bf16;
use lacuna::attention::reference::TieredAttended;
use lacuna::attention::{TieredInputs, TieredPlan, attend_tiered};
use lacuna::element::{Half, Real};
use lacuna::kv::KvLists;
use lacuna::mma::Model;
use lacuna::quant::reference::Channels;
use lacuna::quant::{ChannelViews, PagesPlan, PagesShape, Tail, Tier, TierPools};
use lacuna::{Buffer, Error, Queue};

use crate::attend::problem::{Case, Problem, Results, assert_results};
use crate::common::Random;

/// A problem of `attend`, and the pages that stand before its segments.
#[derive(Debug, Clone)]
pub(crate) struct Paged<T> {
    pub(crate) problem: Problem<T>,
    pub(crate) plan: TieredPlan,
    pub(crate) pools: [Vec<u8>; 4],
    pub(crate) entries: [Vec<u32>; 2],
    pub(crate) counts: Option<Vec<u32>>,
    pub(crate) scales: [Option<Vec<f32>>; 2],
    pub(crate) offsets: [Option<Vec<f32>>; 2],
}

/// What proptest and tables vary.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    pub(crate) n_pages: u64,
    pub(crate) span_pages: u64,
    pub(crate) lists: KvLists,
    pub(crate) tail: Tail,
    pub(crate) has_counts: bool,
    pub(crate) has_scales: bool,
    pub(crate) has_offsets: bool,
    /// Of each page by turns.
    pub(crate) tiers: Vec<Tier>,
}

impl Default for Pages {
    fn default() -> Self {
        Self {
            n_pages: 5,
            span_pages: 2,
            lists: KvLists::PerHead,
            tail: Tail::ZeroPoints,
            has_counts: false,
            has_scales: true,
            has_offsets: true,
            tiers: Tier::ALL.to_vec(),
        }
    }
}

impl<T: Half> Paged<T> {
    pub(crate) fn new(case: &Case, pages: &Pages) -> Self {
        let mut problem = case.build::<T>();
        let layout = case.kv_layout().unwrap();
        let batch = case.lengths.len() as u64;
        let n = batch * case.n_heads * pages.n_pages;
        let shape = PagesShape {
            lists: pages.lists,
            span_pages: pages.span_pages,
            n_pool_pages: [n + 1, n + 2, n + 3, n + 4],
            tail: pages.tail,
            ..PagesShape::of(layout, pages.n_pages)
        };
        let pages_plan = PagesPlan::new(shape).unwrap();
        let plan = TieredPlan::new(problem.plan, pages_plan).unwrap();
        problem.plan = *plan.attend();
        let mut random = Random(case.seed ^ 0x5EED);
        let mut pools = [const { Vec::new() }; 4];
        for tier in Tier::ALL {
            pools[tier.tag() as usize] = pool::<T>(&pages_plan, tier, &mut random);
        }
        let mut turn = 0;
        let entries = [0, 1].map(|_| {
            let entry = |random: &mut Random| {
                turn += 1 + random.next() as usize % 2;
                let tier = pages.tiers[turn % pages.tiers.len()];
                tier.tag() << 30 | (random.next() % shape.n_pool_pages[tier.tag() as usize]) as u32
            };
            (0..pages_plan.entries_len())
                .map({
                    let mut entry = entry;
                    let random = RefCell::new(Random(case.seed ^ 77));
                    move |_| entry(&mut random.borrow_mut())
                })
                .collect()
        });
        let counts = pages.has_counts.then(|| {
            let n = 64 * pages.n_pages + 2;
            (0..pages_plan.n_lists()).map(|_| (random.next() % n) as u32).collect()
        });
        let n_channels = pages_plan.channels_len();
        let scales = [0, 1].map(|_| {
            let scale = |random: &mut Random| 0.25 + (random.next() % 997) as f32 / 500.0;
            pages.has_scales.then(|| (0..n_channels).map(|_| scale(&mut random)).collect())
        });
        let offsets = [0, 1].map(|_| {
            let offset = |random: &mut Random| random.normal() * 0.5;
            pages.has_offsets.then(|| (0..n_channels).map(|_| offset(&mut random)).collect())
        });
        Self { problem, plan, pools, entries, counts, scales, offsets }
    }

    /// The results, and the logits.
    pub(crate) fn attend<O: Real>(&self, queue: &Queue) -> Result<(Results<O>, Vec<u32>), Error> {
        let [key_entries, value_entries] =
            [queue.upload(&self.entries[0])?, queue.upload(&self.entries[1])?];
        let counts = self.counts.as_ref().map(|all| queue.upload(all)).transpose()?;
        let floats = |all: &Option<Vec<f32>>| -> Option<Buffer<f32>> {
            all.as_ref().map(|all| queue.upload(all).unwrap())
        };
        let scales = self.scales.each_ref().map(floats);
        let offsets = self.offsets.each_ref().map(floats);
        let channels = |part: usize| ChannelViews {
            scales: scales[part].as_ref().map(Buffer::view),
            offsets: offsets[part].as_ref().map(Buffer::view),
        };
        let pools = self.pools.each_ref().map(|pool| queue.upload(pool).unwrap());
        let pages = TieredInputs {
            pools: TierPools { pools: pools.each_ref().map(|pool| Some(pool.view())) },
            key_entries: key_entries.view(),
            value_entries: value_entries.view(),
            counts: counts.as_ref().map(Buffer::view),
            key_channels: channels(0),
            value_channels: channels(1),
        };
        let n_logits = self.plan.logits_len() as usize;
        let logits = RefCell::new(queue.upload(&vec![7.0_f32; n_logits])?);
        let results = self.problem.launch(queue, |inputs, outputs| {
            let mut logits = logits.borrow_mut();
            attend_tiered(queue, &self.plan, inputs, &pages, outputs, Some(&logits.view_mut()))
        })?;
        let logits = queue.download(&logits.borrow().view())?;
        Ok((results, logits.into_iter().map(f32::to_bits).collect()))
    }

    pub(crate) fn with_reference<R>(
        &self,
        model: Model,
        then: impl FnOnce(&TieredAttended<'_, T>) -> R,
    ) -> R {
        let channels = |part: usize| Channels {
            scales: self.scales[part].as_deref(),
            offsets: self.offsets[part].as_deref(),
        };
        self.problem.with_reference(model, |attended| {
            then(&TieredAttended {
                plan: &self.plan,
                attended: *attended,
                pools: self.pools.each_ref().map(Vec::as_slice),
                entries: self.entries.each_ref().map(Vec::as_slice),
                counts: self.counts.as_deref(),
                channels: [channels(0), channels(1)],
            })
        })
    }

    pub(crate) fn expect<O: Real>(&self, model: Model) -> (Results<O>, Vec<u32>) {
        self.with_reference(model, |attended| {
            let logits = RefCell::new(vec![7.0_f32; self.plan.logits_len() as usize]);
            let shape = self.plan.attend().shape();
            let results = self.problem.expect_by(|b, i, q| {
                let (output, log_sum, own) = attended.query(b, i, q);
                let token = b * shape.n_queries as usize + i;
                let first = (token * shape.n_q_heads as usize + q) * own.len();
                // Of zeros, one.
                let own: Vec<f32> = own.iter().map(|logit| f32::from_f32(logit + 0.0)).collect();
                logits.borrow_mut()[first..][..own.len()].copy_from_slice(&own);
                (output, log_sum)
            });
            (results, logits.into_inner().into_iter().map(f32::to_bits).collect())
        })
    }
}

/// Codes of any bytes, steps and zero points as quantizing leaves them, and numbers.
fn pool<T: Half>(plan: &PagesPlan, tier: Tier, random: &mut Random) -> Vec<u8> {
    let page = plan.page(lacuna::quant::Part::Keys);
    let n_bytes = plan.pool_bytes(tier) as usize;
    let mut bytes: Vec<u8> = Vec::with_capacity(n_bytes);
    while bytes.len() < n_bytes {
        let n_codes = page.code_bytes(tier);
        if tier == Tier::T16 {
            for _ in 0..n_codes / 2 {
                bytes.extend(T::from_f32(random.normal()).bits().to_le_bytes());
            }
            continue;
        }
        bytes.extend((0..n_codes).map(|_| random.next() as u8));
        let greatest = f32::from(tier.greatest_code().unwrap());
        let steps: Vec<f32> =
            (0..64).map(|_| (1.0 + (random.next() % 100) as f32 / 50.0) / greatest).collect();
        match page.tail() {
            Tail::ZeroPoints => {
                for step in &steps {
                    bytes.extend(bf16::from_f32(*step).to_le_bytes());
                }
                for _ in 0..64 {
                    let zero = greatest * 16.0 * ((random.next() % 1000) as f32 / 1000.0);
                    bytes.extend((zero as i16).to_le_bytes());
                }
            }
            Tail::Minimums => {
                bytes.extend(steps.iter().flat_map(|step| step.to_le_bytes()));
                bytes.extend((0..64).flat_map(|_| (-random.normal().abs()).to_le_bytes()));
            }
        }
    }
    bytes
}

#[track_caller]
pub(crate) fn assert_same<T: Half, O: Real>(paged: &Paged<T>) {
    for queue in crate::common::queues() {
        let Some(model) = crate::common::model_of(&queue) else { continue };
        let (results, logits) = paged.attend::<O>(&queue).unwrap();
        let (expected, expected_logits) = paged.expect(model);
        let what = format!("{}", queue.executor());
        assert_results(&results, &expected, &what);
        assert_eq!(logits.len(), expected_logits.len());
        for (i, (one, other)) in logits.iter().zip(&expected_logits).enumerate() {
            assert_eq!(
                one,
                other,
                "{what}: logit {i}: {} {}",
                f32::from_bits(*one),
                f32::from_bits(*other)
            );
        }
    }
}
