//! The kernel that packs DF11 groups; what counts and places for it is compact groups' too.

use half::bf16;
use lacuna::huffman::compact::{EncodePlan, reference};
use lacuna::huffman::{Codebook, DeviceGroup, EncodedGroup, pack_group, upload_codebook};
use lacuna::simt::Config;
use lacuna::{Buffer, Executor, Queue};

use super::compact::fill;
use super::group::OfGroup;
use crate::Weights;
use crate::house::case::{Budget, Case, Problem, Work, poison};

struct Group {
    plan: EncodePlan,
    weights: Vec<u16>,
    book: Codebook,
    group: EncodedGroup,
    expected: Vec<u8>,
}

fn problem(weights: Vec<u16>) -> Box<dyn Problem> {
    let plan = EncodePlan::new(weights.len() as u64).expect("a sound plan");
    let book = Codebook::new(&reference::count(&weights)).expect("there are weights");
    let group = crate::encode(&weights);
    assert!(group.luts == book.luts(), "no block of the group is dense");
    let expected = tensors(&group);
    Box::new(Group { plan, weights, book, group, expected })
}

/// Bytes of all that `pack_group` writes.
fn tensors(group: &EncodedGroup) -> Vec<u8> {
    let EncodedGroup { encoded_exponent, sign_mantissa, gaps, output_positions, .. } = group;
    [&encoded_exponent[..], sign_mantissa, gaps, output_positions].concat()
}

impl Problem for Group {
    fn least_bytes(&self) -> u64 {
        2 * self.plan.n_elements() + self.expected.len() as u64
    }

    fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(self, queue, 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let later = Launch::new(self, queue, 8)?;
        Ok(vec![("of weights behind others".to_owned(), Box::new(later))])
    }
}

struct Launch {
    plan: EncodePlan,
    /// Weights before the group's.
    n_before: usize,
    weights: Buffer<bf16>,
    workspace: Buffer<u64>,
    group: DeviceGroup,
}

impl Launch {
    fn new(group: &Group, queue: &Queue, n_before: usize) -> lacuna::Result<Self> {
        let Group { plan, book, group: encoded, .. } = group;
        let all = [&vec![0x3F80; n_before][..], &group.weights].concat();
        // What a launch finds there. The executor's counters are of the launch alone.
        let apart = Queue::simt(Config::default());
        let other = match queue.executor() {
            Executor::Cuda { .. } => queue,
            _ => &apart,
        };
        let words =
            fill(other, plan, &group.weights, |space| upload_codebook(other, plan, book, space))?;
        Ok(Self {
            plan: *plan,
            n_before,
            weights: queue.upload(bytemuck::cast_slice::<u16, bf16>(&all))?,
            workspace: queue.upload(&words)?,
            group: DeviceGroup {
                encoded_exponent: queue.alloc(encoded.encoded_exponent.len())?,
                sign_mantissa: queue.alloc(encoded.sign_mantissa.len())?,
                luts: queue.upload(&encoded.luts)?,
                gaps: queue.alloc(encoded.gaps.len())?,
                output_positions: queue.alloc(encoded.output_positions.len())?,
            },
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let Self { plan, n_before, weights, workspace, group } = self;
        let weights = weights.view().slice(*n_before..weights.len())?;
        pack_group(queue, plan, &weights, &workspace.view_mut(), &mut group.views_mut())
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let DeviceGroup { encoded_exponent, sign_mantissa, gaps, output_positions, .. } =
            &mut self.group;
        poison(queue, encoded_exponent)?;
        poison(queue, sign_mantissa)?;
        poison(queue, gaps)?;
        poison(queue, output_positions)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        Ok(tensors(&self.group.download(queue)?))
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    let budget =
        Budget { bytes: 1.035, sectors_per_request: 10.7, conflict_ways: 1.1, barriers: 35.0 };
    // Of few weights the table counts most.
    let random = [
        (1, "1 weight", 10.6),
        (30_001, "30001 weights", 1.045),
        (1 << 18, "262144 weights", 1.035),
        (16 << 20, "16 Mi weights", 1.035),
        (256 << 20, "256 Mi weights", 1.035),
    ]
    .map(|(n_weights, name, bytes)| (Weights::Random(n_weights), name, Budget { bytes, ..budget }));
    let golden = crate::GOLDEN.map(|(file, name)| (Weights::Golden(file), name, budget));
    let case = |(weights, shape, budget): (Weights, &str, Budget)| -> Box<dyn Case> {
        let (kernel, shape) = ("huffman/pack_group", shape.to_owned());
        Box::new(OfGroup { kernel, shape, weights, budget, problem })
    };
    random.into_iter().chain(golden).map(case).collect()
}
