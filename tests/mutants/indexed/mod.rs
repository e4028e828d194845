//! Decoding by an index, making one, and rows by their numbers.

mod decode;
mod index;
mod rows;

use lacuna::simt::{Entry, Schedule};

use crate::common::{Random, clustered_weights};
use crate::indexed_problem::{Owned, weights_of_any_exponent, weights_of_long_codes};
use crate::queue;

/// Whether a launch that runs `by` fails, or leaves what is not expected, on any of the problems: each on one schedule, the
/// first on all.
fn differs_somewhere<P, F: PartialEq>(
    kernel: Entry,
    by: Entry,
    problems: &[(P, F)],
    launch: impl Fn(&lacuna::Queue, &P) -> lacuna::Result<F>,
) -> bool {
    let schedules = [Schedule::Random, Schedule::Reverse, Schedule::InOrder];
    problems.iter().enumerate().any(|(idx, (problem, expected))| {
        let n = if idx == 0 { 3 } else { 1 };
        (idx..idx + n).any(|schedule| {
            let queue = queue(kernel, by, schedules[schedule % 3]);
            launch(&queue, problem).map_or(true, |found| found != *expected)
        })
    })
}

/// Sound groups: short codes and long ones, tiles on chip and not.
fn sound_groups() -> Vec<Owned> {
    [
        clustered_weights(9000, 1),
        weights_of_long_codes(5000, 2),
        weights_of_any_exponent(4300, 3),
        vec![0x3F80; 130],
        clustered_weights(1, 5),
        clustered_weights(2, 5),
    ]
    .map(|weights| Owned::encode(&weights))
    .into()
}

/// Groups with something wrong in each tensor that says what the codes are.
fn hostile_groups() -> Vec<Owned> {
    let mut groups = Vec::new();
    let [short, long, any] = [
        Owned::encode(&clustered_weights(4300, 11)),
        Owned::encode(&weights_of_long_codes(4300, 12)),
        Owned::encode(&weights_of_any_exponent(4300, 13)),
    ];
    let mut add = |group: &Owned, change: &dyn Fn(&mut Owned)| {
        let mut group = group.clone();
        change(&mut group);
        groups.push(group);
    };
    for group in [&short, &long, &any] {
        // Granules that descend, end elsewhere, begin before their tile, or leave the stream.
        add(group, &|group| group.granule_bits[5] -= 1);
        add(group, &|group| group.granule_bits[31] = 0xFFFF);
        add(group, &|group| group.granule_bits.swap(3, 4));
        add(group, &|group| group.granule_bits.fill(0));
        add(group, &|group| group.granule_bits[0] += 1);
        add(group, &|group| {
            let last = group.granule_bits.last_mut().unwrap();
            *last = last.wrapping_add(9);
        });
        add(group, &|group| group.tile_bytes[1] = 0);
        add(group, &|group| group.tile_bytes[0] += 1);
        add(group, &|group| group.tile_bytes.fill(u32::MAX));
        add(group, &|group| group.tile_bytes[1] += 20_000);
        let end = group.codes.len() as u32;
        add(group, &|group| group.tile_bytes[1] = end);
        add(group, &|group| group.codes.truncate(group.codes.len() - 40));
        // All codes away, or others.
        add(group, &|group| group.codes.fill(0xFF));
        add(group, &|group| group.codes[100..140].fill(0));
        add(group, &|group| group.lengths.fill(0));
        add(group, &|group| group.lengths.fill(13));
        add(group, &|group| group.entries.fill(0));
        add(group, &|group| group.luts.clear());
        add(group, &|group| {
            group.entries.fill(0);
            group.luts.clear();
        });
        // Entries that no table has: none, three, or too few or many bits.
        for entry in [0x0001_0000, 0x0302_0505, 0x0200_0505, 0x0201_0505, 0x010D_0005, 0x020D_0505]
        {
            add(group, &|group| group.entries.fill(entry));
        }
        // The longest and the shortest.
        for entry in [0x010C_0005, 0x0202_0505, 0x0101_0005] {
            add(group, &|group| group.entries.fill(entry));
        }
        // Tables that point to the row of lengths, past it, and on and on; lengths that no code has.
        let n_rows = group.luts.len() / 256 - 1;
        for entry in [(256 - n_rows) as u8, 240, 255] {
            add(group, &|group| {
                group.entries.fill(0);
                group.luts[..256 * n_rows].fill(entry);
            });
        }
        for length in [0, 32, 33] {
            add(group, &|group| {
                group.entries.fill(0);
                group.luts[256 * n_rows..].fill(length);
            });
        }
    }
    groups
}

/// Random bytes of damage.
fn damaged_groups(n: usize) -> Vec<Owned> {
    let mut random = Random(77);
    (0..n)
        .map(|idx| {
            let seed = random.next();
            let weights = match idx % 3 {
                0 => clustered_weights(4500, seed),
                1 => weights_of_long_codes(4500, seed),
                _ => weights_of_any_exponent(4500, seed),
            };
            let mut group = Owned::encode(&weights);
            for _ in 0..4 {
                let at = random.next() as usize % group.codes.len();
                group.codes[at] = random.next() as u8;
                let at = random.next() as usize % group.granule_bits.len();
                group.granule_bits[at] =
                    group.granule_bits[at].wrapping_add(random.next() as u16 % 5);
            }
            group
        })
        .collect()
}
