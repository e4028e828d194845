//! `decode_bf16` of one group.

use half::bf16;
use lacuna::huffman::{self, DeviceWeights, EncodedGroup, RawGroup};
use lacuna::{Buffer, Queue};

use crate::house::case::{Budget, Case, Peer, Problem, Work, poison};
use crate::{GOLDEN, N_OTHERS, PUBLISHED_COLUMNS, PUBLISHED_ROWS, Weights, encode, peers};

struct Decode {
    shape: String,
    weights: Weights,
    budget: Budget,
}

/// A group, its weights, and another for company.
struct Group {
    weights: Vec<u16>,
    encoded: EncodedGroup,
    other: EncodedGroup,
}

impl Case for Decode {
    fn kernel(&self) -> &'static str {
        "huffman/decode_bf16"
    }

    fn shape(&self) -> String {
        self.shape.clone()
    }

    fn is_small(&self) -> bool {
        self.weights.is_small()
    }

    fn budget(&self) -> Budget {
        self.budget
    }

    fn prepare(&self, _: &Queue) -> Box<dyn Problem> {
        let weights = self.weights.make();
        let encoded = encode(&weights);
        Box::new(Group { weights, encoded, other: encode(&crate::weights(N_OTHERS)) })
    }
}

impl Problem for Group {
    fn least_bytes(&self) -> u64 {
        let group = self.encoded.as_raw("group").parse().unwrap();
        huffman::DecodePlan::new(&[group.shape()]).unwrap().least_bytes()
    }

    fn expected(&self) -> &[u8] {
        bytemuck::cast_slice(&self.weights)
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(queue, &[self.encoded.as_raw("group")], 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let [group, other] = [self.encoded.as_raw("group"), self.other.as_raw("other")];
        let after = Launch::new(queue, &[other, group], 1)?;
        let between = Launch::new(queue, &[other, other, group, other], 2)?;
        Ok(vec![
            ("as the second group of two".to_owned(), Box::new(after)),
            ("as the third group of four".to_owned(), Box::new(between)),
        ])
    }

    fn peers(&self) -> Vec<Box<dyn Peer + '_>> {
        vec![
            Box::new(peers::dfloat11::Published(&self.encoded)),
            Box::new(peers::nvcomp::Ans(self.expected())),
        ]
    }
}

/// A launch over groups, one of which is looked at.
struct Launch {
    weights: DeviceWeights<'static>,
    workspace: Buffer<u64>,
    output: Buffer<bf16>,
    idx: usize,
}

impl Launch {
    fn new(queue: &Queue, groups: &[RawGroup<'_>], idx: usize) -> lacuna::Result<Self> {
        let groups: Vec<_> = groups.iter().map(|raw| raw.parse().unwrap()).collect();
        let weights = DeviceWeights::upload(queue, &groups)?;
        let workspace = queue.alloc(weights.plan().workspace_len() as usize)?;
        let output = queue.alloc(weights.plan().output_len() as usize)?;
        Ok(Self { weights, workspace, output, idx })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let Self { weights, workspace, output, .. } = self;
        weights.decode(queue, &mut workspace.view_mut(), &mut output.view_mut())
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        poison(queue, &mut self.output)
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        self.weights.check(queue, &self.workspace.view())?;
        let range = self.weights.plan().output_range(self.idx).expect("a group of the launch");
        let view = self.output.view().slice(range.start as usize..range.end as usize)?;
        Ok(bytemuck::cast_slice(&queue.download(&view)?).to_vec())
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    // Beyond the least: tables and group records that every block reads again, most of all in a group
    // that does not fill one.
    let budget =
        Budget { bytes: 1.28, sectors_per_request: 4.2, conflict_ways: 1.6, barriers: 7.0 };
    let small = [(1, "1", 10.3), (N_OTHERS, "30,001", 1.28), (1 << 18, "256 Ki", 1.25)];
    let small = small.map(|(n_weights, name, bytes)| {
        (Weights::Random(n_weights), format!("{name} weights"), Budget { bytes, ..budget })
    });
    let golden = [1.27, 1.28];
    let golden = GOLDEN.into_iter().zip(golden).map(|((file, shape), bytes)| {
        (Weights::Golden(file), shape.to_owned(), Budget { bytes, ..budget })
    });
    let published = PUBLISHED_COLUMNS.map(|n_columns| {
        let weights = Weights::Random(PUBLISHED_ROWS * n_columns);
        (weights, format!("{PUBLISHED_ROWS} x {n_columns}"), budget)
    });
    let cases = small.into_iter().chain(golden).chain(published);
    cases.map(|(weights, shape, budget)| Box::new(Decode { shape, weights, budget }) as _).collect()
}
