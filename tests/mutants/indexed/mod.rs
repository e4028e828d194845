//! Decoding by an index, making one, and rows by their numbers.

mod decode;
mod index;
mod rows;

use lacuna::simt::{Entry, Schedule};

use crate::common::{Random, clustered_weights, noise, skewed_weights};
use crate::indexed_problem::Owned;
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
        clustered_weights(40_000, 1),
        skewed_weights(17_000, 2),
        noise(24_573, 3),
        weights_of_twelve_exponents(24_576, 4),
        vec![0x3F80; 130],
        clustered_weights(1, 5),
        clustered_weights(2, 5),
    ]
    .map(|weights| Owned::encode(&weights))
    .into()
}

/// Of 3.6 bits each: a tile's codes fit on chip, and no walk beyond them.
fn weights_of_twelve_exponents(n: usize, seed: u64) -> Vec<u16> {
    let mut random = Random(seed);
    (0..n).map(|_| (100 + random.next() % 12) as u16 * 128).collect()
}

/// Two codes of 23 bits, the second of which only bytes past the span tell from none.
fn group_that_sees_far() -> Owned {
    let mut codes = vec![0; 24];
    (codes[14], codes[17]) = (0x5A, 0xB4);
    let mut luts = vec![9; 4 * 256];
    luts[..256].fill(255);
    luts[256..512].fill(254);
    luts[512 + 0x5A] = 5;
    luts[768..].fill(0);
    luts[768 + 5] = 23;
    Owned {
        codes,
        sign_mantissa: vec![1; 2],
        tile_bytes: vec![12],
        granule_bits: vec![0, 24],
        entries: vec![0; 4096],
        lengths: luts[768..].to_vec(),
        luts,
    }
}

/// Groups with something wrong in each tensor that says what the codes are.
fn hostile_groups() -> Vec<Owned> {
    let few = group_that_sees_far();
    let no_code = Owned { codes: vec![0; 24], ..few.clone() };
    // The first of two codes passes the end, and the second is none; of three the last has a length that none has.
    let passing =
        Owned { codes: few.codes[..17].to_vec(), granule_bits: vec![0, 16], ..few.clone() };
    let unmeasured = Owned {
        sign_mantissa: vec![1; 3],
        granule_bits: vec![0, 2],
        entries: vec![0x0204_0505; 4096],
        lengths: vec![0; 256],
        ..few.clone()
    };
    let mut groups = vec![few, no_code, passing, unmeasured];
    let mut wide = Owned::encode(&noise(24_000, 14));
    wide.tile_bytes[1] = wide.tile_bytes[5];
    groups.push(wide);
    let mut straying = Owned::encode(&weights_of_twelve_exponents(24_576, 15));
    straying.entries.fill(0x010C_0005);
    groups.push(straying);
    let [short, long, any] = [
        Owned::encode(&clustered_weights(4300, 11)),
        Owned::encode(&skewed_weights(4300, 12)),
        Owned::encode(&noise(4300, 13)),
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
        for entry in [
            0x0001_0000,
            0x0302_0505,
            0x0303_0505,
            0x0C0C_0505,
            0x0200_0505,
            0x0201_0505,
            0x010D_0005,
            0x020D_0505,
        ] {
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
                1 => skewed_weights(4500, seed),
                _ => noise(4500, seed),
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
