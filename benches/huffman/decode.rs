//! `decode_bf16` of one group.

use lacuna::Queue;
use lacuna::huffman::{self, DeviceWeights, EncodedGroup, RawGroup};

use super::group::{Launch, OfGroup, shapes};
use crate::house::case::{Budget, Case, Peer, Problem, Work};
use crate::{N_OTHERS, encode, peers};

/// A group, its weights, and another for company.
struct Group {
    weights: Vec<u16>,
    encoded: EncodedGroup,
    other: EncodedGroup,
}

impl Group {
    fn of(weights: Vec<u16>) -> Box<dyn Problem> {
        let [encoded, other] = [encode(&weights), encode(&crate::weights(N_OTHERS))];
        Box::new(Self { weights, encoded, other })
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
        Ok(Box::new(launch(queue, &[self.encoded.as_raw("group")], 0)?))
    }

    fn variants(&self, queue: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        let [group, other] = [self.encoded.as_raw("group"), self.other.as_raw("other")];
        let after = launch(queue, &[other, group], 1)?;
        let between = launch(queue, &[other, other, group, other], 2)?;
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

fn launch(queue: &Queue, groups: &[RawGroup<'_>], idx: usize) -> lacuna::Result<Launch> {
    let groups: Vec<_> = groups.iter().map(|raw| raw.parse().unwrap()).collect();
    Launch::new(queue, DeviceWeights::upload(queue, &groups)?, idx)
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    // Beyond the least: tables and group records that every block reads again, most of all in a group
    // that does not fill one.
    let budget =
        Budget { bytes: 1.28, sectors_per_request: 4.2, conflict_ways: 1.6, barriers: 7.0 };
    let (kernel, problem) = ("huffman/decode_bf16", Group::of);
    shapes(budget, [10.3, 1.28, 1.25, 1.27, 1.28])
        .into_iter()
        .map(|(weights, shape, budget)| {
            Box::new(OfGroup { kernel, shape, weights, budget, problem }) as _
        })
        .collect()
}
