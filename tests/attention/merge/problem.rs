//! Problems for `merge_partials`, and what must come of them.

use crate::common::Random;
use lacuna::attention::reference::{self, HostPartial};
use lacuna::attention::{
    LogBase, LogSumOrder, MergeOutputs, MergePlan, MergeShape, MergeTarget, Partial, PartialShape,
    merge_partials, merge_partials_in_place,
};
use lacuna::element::Real;
use lacuna::{Error, Queue};

/// What proptest and tables vary.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) n_tokens: u64,
    pub(crate) n_heads: u64,
    pub(crate) head_dim: u64,
    pub(crate) n_parts: usize,
    /// Elements between tokens, of the first part and of the others; and of outputs.
    pub(crate) gaps: [u64; 3],
    /// Elements before the first, the same.
    pub(crate) offsets: [usize; 3],
    /// Of log-sums, the same.
    pub(crate) orders: [LogSumOrder; 3],
    pub(crate) n_queries: u64,
    pub(crate) base: LogBase,
    pub(crate) has_masks: bool,
    /// Rows of nothing, of NaN and of infinite log-sums, and outputs that are no numbers.
    pub(crate) is_hostile: bool,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            seed: 1,
            n_tokens: 5,
            n_heads: 3,
            head_dim: 64,
            n_parts: 3,
            gaps: [0; 3],
            offsets: [0; 3],
            orders: [LogSumOrder::TokensHeads; 3],
            n_queries: 1,
            base: LogBase::E,
            has_masks: false,
            is_hostile: false,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct PartData<T> {
    pub(crate) outputs: Vec<T>,
    pub(crate) log_sums: Vec<f32>,
    pub(crate) mask: Option<Vec<u32>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Problem<T> {
    pub(crate) case: Case,
    pub(crate) plan: MergePlan,
    pub(crate) parts: Vec<PartData<T>>,
}

/// What is in outputs before a launch.
const POISON: f32 = -12_345.0;

impl Case {
    pub(crate) fn plan(&self) -> Result<MergePlan, Error> {
        let row_len = self.n_heads * self.head_dim;
        let shape = MergeShape {
            output_stride: row_len + self.gaps[2],
            log_sum_order: self.orders[2],
            n_queries: self.n_queries,
            base: self.base,
            ..MergeShape::of(self.n_tokens, self.n_heads, self.head_dim)
        };
        let part = |i: usize| PartialShape {
            stride: row_len + self.gaps[usize::from(i != 0)],
            log_sum_order: self.orders[usize::from(i != 0)],
        };
        MergePlan::new(shape, &(0..self.n_parts).map(part).collect::<Vec<_>>())
    }

    pub(crate) fn build<T: Real>(&self) -> Problem<T> {
        let plan = self.plan().unwrap();
        let mut random = Random(self.seed);
        random.next();
        let parts = (0..self.n_parts).map(|i| self.build_part(&plan, i, &mut random)).collect();
        Problem { case: self.clone(), plan, parts }
    }

    fn build_part<T: Real>(&self, plan: &MergePlan, i: usize, random: &mut Random) -> PartData<T> {
        let n_outputs = plan.partial_len(i) as usize;
        let mut outputs: Vec<T> = (0..n_outputs).map(|_| T::from_f32(random.number())).collect();
        // A NaN that no kernel writes, and others.
        let nan = bytemuck::pod_read_unaligned::<T>(&[0xFF; 4][..size_of::<T>()]);
        let wild = [f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e-40, f32::MAX].map(T::from_f32);
        if self.is_hostile {
            for output in &mut outputs {
                let n = random.next() as usize;
                if n.is_multiple_of(97) {
                    *output = wild.get(n / 97 % 7).copied().unwrap_or(nan);
                }
            }
        }
        let mut log_sum = || match random.next() % 24 {
            0 => f32::NEG_INFINITY,
            1 => f32::INFINITY,
            2 | 3 if self.is_hostile => {
                [f32::NAN, f32::MAX, f32::MIN, 4e6, -0.0, 1e-40][random.next() as usize % 6]
            }
            4 => 40.0 * random.number(),
            5 => 1000.0 + random.number(),
            6 => 2.0,
            _ => 4.0 * random.number(),
        };
        let log_sums = (0..plan.log_sums_len()).map(|_| log_sum()).collect();
        let mut word =
            || if random.next().is_multiple_of(3) { 0 } else { random.next() as u32 | 8 };
        let mask = (0..plan.shape().n_tokens).map(|_| word()).collect();
        PartData { outputs, log_sums, mask: self.has_masks.then_some(mask) }
    }
}

/// What a launch leaves: outputs as bytes, and the bits of log-sums.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Results {
    pub(crate) outputs: Vec<u8>,
    pub(crate) log_sums: Vec<u32>,
}

impl Results {
    fn of<O: Real>(outputs: &[O], log_sums: &[f32]) -> Self {
        Self {
            outputs: bytemuck::cast_slice(outputs).to_vec(),
            log_sums: log_sums.iter().map(|x| x.to_bits()).collect(),
        }
    }

    pub(crate) fn outputs_as<O: Real>(&self) -> Vec<f32> {
        let elements = self.outputs.chunks_exact(size_of::<O>());
        elements.map(|bytes| bytemuck::pod_read_unaligned::<O>(bytes).to_f32()).collect()
    }

    pub(crate) fn log_sums(&self) -> Vec<f32> {
        self.log_sums.iter().copied().map(f32::from_bits).collect()
    }
}

impl<T: Real> Problem<T> {
    fn host(&self) -> Vec<HostPartial<'_, T>> {
        let parts = self.parts.iter();
        parts
            .map(|part| HostPartial {
                outputs: &part.outputs,
                log_sums: &part.log_sums,
                mask: part.mask.as_deref(),
            })
            .collect()
    }

    /// Of the parts after the first, which is the target.
    fn plan_in_place(&self) -> MergePlan {
        let [PartialShape { stride, log_sum_order }, others @ ..] = self.plan.parts() else {
            unreachable!("a plan has parts")
        };
        let (output_stride, log_sum_order) = (*stride, *log_sum_order);
        let shape = MergeShape { output_stride, log_sum_order, ..*self.plan.shape() };
        MergePlan::new(shape, others).unwrap()
    }

    pub(crate) fn expect<O: Real>(&self) -> Results {
        let mut outputs = vec![O::from_f32(POISON); self.plan.outputs_len() as usize];
        let mut log_sums = vec![POISON; self.plan.log_sums_len() as usize];
        reference::merge_partials(&self.plan, &self.host(), &mut outputs, &mut log_sums);
        Results::of(&outputs, &log_sums)
    }

    pub(crate) fn expect_in_place(&self) -> Results {
        let PartData { mut outputs, mut log_sums, mask } = self.parts[0].clone();
        reference::merge_partials_in_place(
            &self.plan_in_place(),
            &self.host()[1..],
            &mut outputs,
            &mut log_sums,
            mask.as_deref(),
        );
        Results::of(&outputs, &log_sums)
    }

    /// Uploads parts `from` and on, each after as many elements as the case says, and hands them on.
    fn with_parts<R>(
        &self,
        queue: &Queue,
        from: usize,
        then: impl FnOnce(&[Partial<'_, T>]) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut buffers = Vec::new();
        for (i, part) in self.parts.iter().enumerate().skip(from) {
            let n_before = self.case.offsets[usize::from(i != 0)];
            let outputs = [&vec![T::from_f32(POISON); n_before], &part.outputs[..]].concat();
            let mask = part.mask.as_ref().map(|mask| queue.upload(mask)).transpose()?;
            buffers.push((queue.upload(&outputs)?, n_before, queue.upload(&part.log_sums)?, mask));
        }
        let parts: Result<Vec<_>, Error> = buffers
            .iter()
            .map(|(outputs, n_before, log_sums, mask)| {
                Ok(Partial {
                    outputs: outputs.view().slice(*n_before..outputs.len())?,
                    log_sums: log_sums.view(),
                    mask: mask.as_ref().map(|mask| mask.view()),
                })
            })
            .collect();
        then(&parts?)
    }

    pub(crate) fn merge<O: Real>(&self, queue: &Queue) -> Result<Results, Error> {
        self.merge_with::<O>(queue, true)
    }

    /// Two launches: what the first wrote, the second must not need. Log-sums that nobody asks for stay what they were.
    pub(crate) fn merge_with<O: Real>(
        &self,
        queue: &Queue,
        has_sums: bool,
    ) -> Result<Results, Error> {
        self.with_parts(queue, 0, |parts| {
            let n_before = self.case.offsets[2];
            let n = n_before + self.plan.outputs_len() as usize;
            let mut outputs = queue.upload(&vec![O::from_f32(POISON); n])?;
            let mut log_sums = queue.upload(&vec![POISON; self.plan.log_sums_len() as usize])?;
            for _ in 0..2 {
                let mut view = outputs.view_mut();
                let mut written = MergeOutputs {
                    outputs: view.slice_mut(n_before..n)?,
                    log_sums: has_sums.then(|| log_sums.view_mut()),
                };
                merge_partials(queue, &self.plan, parts, &mut written)?;
            }
            let outputs = queue.download(&outputs.view())?;
            assert!(outputs[..n_before].iter().all(|x| x.to_f32() == O::from_f32(POISON).to_f32()));
            Ok(Results::of(&outputs[n_before..], &queue.download(&log_sums.view())?))
        })
    }

    pub(crate) fn merge_in_place(&self, queue: &Queue) -> Result<Results, Error> {
        self.with_parts(queue, 1, |parts| {
            let target = &self.parts[0];
            let n_before = self.case.offsets[0];
            let before = [&vec![T::from_f32(POISON); n_before], &target.outputs[..]].concat();
            let mut outputs = queue.upload(&before)?;
            let mut log_sums = queue.upload(&target.log_sums)?;
            let mask = target.mask.as_ref().map(|mask| queue.upload(mask)).transpose()?;
            let mut view = outputs.view_mut();
            let mut merged = MergeTarget {
                outputs: view.slice_mut(n_before..before.len())?,
                log_sums: log_sums.view_mut(),
                mask: mask.as_ref().map(|mask| mask.view()),
            };
            merge_partials_in_place(queue, &self.plan_in_place(), &mut merged, parts)?;
            let outputs = queue.download(&outputs.view())?;
            Ok(Results::of(&outputs[n_before..], &queue.download(&log_sums.view())?))
        })
    }

    /// Whether a queue gives the same outputs where nobody asks for log-sums.
    pub(crate) fn agrees_without_sums<O: Real>(&self, queue: &Queue) -> bool {
        let found = self.merge_with::<O>(queue, false);
        found.is_ok_and(|found| {
            found.outputs == self.expect::<O>().outputs
                && found.log_sums.iter().all(|bits| *bits == POISON.to_bits())
        })
    }

    /// Whether a queue gives what the reference does.
    pub(crate) fn agrees<O: Real>(&self, queue: &Queue) -> bool {
        let merged = self.merge::<O>(queue).is_ok_and(|found| found == self.expect::<O>());
        merged
            && (self.parts.len() == 1
                || self.merge_in_place(queue).is_ok_and(|found| found == self.expect_in_place()))
    }
}
