//! A launch over tiered pages, and our own `attend` over the same tokens as numbers.

use half::bf16;
use lacuna::attention::{
    AttendInputs, AttendOutputs, AttendPlan, AttendShape, Segment, SegmentShape, TieredInputs,
    TieredPlan, Tokens, attend, attend_tiered,
};
use lacuna::kv::KvLayout;
use lacuna::quant::{ChannelViews, TierPools};
use lacuna::{Buffer, Queue};

use super::PAGE_TOKENS;
use super::requests::Requests;
use crate::house::cache::{Placed, again};
use crate::house::case::{Peer, Work, poison};
use crate::house::gpu::Gpu;

/// The root of the mean square of how numbers of bf16 may differ from tiered pages, over that of the outputs.
const NEAR: f64 = 0.02;

/// A launch whose last requests are looked at.
pub(super) struct Launch {
    pub(super) plan: TieredPlan,
    queries: Buffer<bf16>,
    cache: Placed,
    pools: [Option<Buffer<u8>>; 4],
    entries: [Buffer<u32>; 2],
    scales: Buffer<f32>,
    offsets: Buffer<f32>,
    outputs: Outputs,
}

impl Launch {
    /// The first request is there `n_more` times more.
    pub(super) fn new(
        requests: &Requests,
        pools: &[Vec<u8>; 4],
        entries: &[Vec<u32>; 2],
        queue: &Queue,
        n_more: usize,
    ) -> lacuna::Result<Self> {
        let batch = requests.case.batch as usize;
        let plan = requests.case.plan(n_more as u64);
        let layout = plan.pages().shape().layout;
        let upload = |pool: &Vec<u8>| (!pool.is_empty()).then(|| queue.upload(pool)).transpose();
        let [first, second, third, fourth] = pools;
        let [of_keys, of_values] = entries;
        Ok(Self {
            queries: queue.upload(&again(&requests.queries, batch, n_more))?,
            cache: requests.cache.place(queue, layout, n_more)?,
            pools: [upload(first)?, upload(second)?, upload(third)?, upload(fourth)?],
            entries: [
                queue.upload(&again(of_keys, batch, n_more))?,
                queue.upload(&again(of_values, batch, n_more))?,
            ],
            scales: queue.upload(&again(&requests.scales, batch, n_more))?,
            offsets: queue.upload(&again(&requests.offsets, batch, n_more))?,
            outputs: Outputs::new(requests, plan.attend(), queue)?,
            plan,
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let segments = [Segment::new(self.cache.view(), None)];
        let queries = self.queries.view();
        let inputs = AttendInputs { queries, segments: &segments, sinks: None, skips: None };
        let scales = Some(self.scales.view());
        let mut pages = TieredInputs {
            pools: TierPools {
                pools: self.pools.each_ref().map(|pool| pool.as_ref().map(Buffer::view)),
                status: None,
            },
            key_entries: self.entries[0].view(),
            value_entries: self.entries[1].view(),
            counts: None,
            key_channels: ChannelViews { scales, offsets: Some(self.offsets.view()) },
            value_channels: ChannelViews { scales, offsets: None },
        };
        attend_tiered(queue, &self.plan, &inputs, &mut pages, &mut self.outputs.views(), None)
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        self.outputs.poison(queue)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        self.outputs.read(queue)
    }
}

/// What a launch writes.
struct Outputs {
    outputs: Buffer<bf16>,
    log_sums: Buffer<f32>,
    workspace: Buffer<u32>,
    n_outputs: usize,
    n_log_sums: usize,
}

impl Outputs {
    fn new(requests: &Requests, plan: &AttendPlan, queue: &Queue) -> lacuna::Result<Self> {
        let n_outputs = requests.queries.len();
        Ok(Self {
            outputs: queue.alloc(plan.outputs_len() as usize)?,
            log_sums: queue.alloc(plan.log_sums_len() as usize)?,
            workspace: queue.alloc(plan.workspace_len() as usize)?,
            n_outputs,
            n_log_sums: n_outputs / requests.case.head_dim as usize,
        })
    }

    fn views(&mut self) -> AttendOutputs<'_, bf16> {
        AttendOutputs {
            outputs: self.outputs.view_mut(),
            log_sums: Some(self.log_sums.view_mut()),
            workspace: self.workspace.view_mut(),
        }
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.outputs)?;
        poison(queue, &mut self.log_sums)
    }

    fn read(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let outputs = queue.download(&self.outputs.view())?;
        let log_sums = queue.download(&self.log_sums.view())?;
        let outputs = &outputs[outputs.len() - self.n_outputs..];
        let log_sums = &log_sums[log_sums.len() - self.n_log_sums..];
        Ok([bytemuck::cast_slice(outputs), bytemuck::cast_slice(log_sums)].concat())
    }
}

/// Our own `attend` over the same tokens as bf16.
pub(super) struct OfNumbers<'a> {
    pub(super) requests: &'a Requests,
}

impl Peer for OfNumbers<'_> {
    fn name(&self) -> &'static str {
        "attend, bf16"
    }

    fn version(&self) -> Option<String> {
        None
    }

    fn place(&self, gpu: &Gpu) -> Result<Box<dyn Work>, String> {
        let numbers = Numbers::new(self.requests, &gpu.queue);
        Ok(Box::new(numbers.map_err(|error| error.to_string())?))
    }
}

/// A launch of it. Where its outputs are near those of tiered pages ([`NEAR`]), it says those, which are compared bit for bit.
pub(super) struct Numbers {
    plan: AttendPlan,
    queries: Buffer<bf16>,
    cache: Placed,
    outputs: Outputs,
    expected: Vec<u8>,
}

impl Numbers {
    pub(super) fn new(requests: &Requests, queue: &Queue) -> lacuna::Result<Self> {
        let case = &requests.case;
        let layout = KvLayout::new(case.layout(PAGE_TOKENS * (case.n_pages + 1)))?;
        let shape = AttendShape::of(&layout, case.n_heads * case.group);
        let plan = AttendPlan::new(shape, &[SegmentShape::of(layout, Tokens::ALL)])?;
        Ok(Self {
            queries: queue.upload(&requests.queries)?,
            cache: requests.as_numbers().place(queue, layout, 0)?,
            outputs: Outputs::new(requests, &plan, queue)?,
            expected: requests.expected.clone(),
            plan,
        })
    }
}

impl Work for Numbers {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let segments = [Segment::new(self.cache.view(), None)];
        let queries = self.queries.view();
        let inputs = AttendInputs { queries, segments: &segments, sinks: None, skips: None };
        attend(queue, &self.plan, &inputs, &mut self.outputs.views())
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        self.outputs.poison(queue)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let found = self.outputs.read(queue)?;
        let numbers = |bytes: &[u8]| -> Vec<f64> {
            let halves = bytes[..2 * self.outputs.n_outputs].chunks_exact(2);
            halves.map(|half| bf16::from_le_bytes([half[0], half[1]]).to_f64()).collect()
        };
        let expected = numbers(&self.expected);
        let error: f64 =
            numbers(&found).iter().zip(&expected).map(|(one, other)| (one - other).powi(2)).sum();
        let size: f64 = expected.iter().map(|x| x * x).sum();
        Ok(if (error / size).sqrt() <= NEAR { self.expected.clone() } else { found })
    }
}
