//! Writes what fuzzing begins with, the same on every machine: `seeds DIR` makes `DIR/<target>/seed-*`.
//! Each has an input's choices written out (see `Input`), and damage by chance.

use std::path::Path;
use std::{env, fs, io};

use lacuna::huffman::compact;
use lacuna::huffman::lane::LaneShape;

/// Lehmer's generator, by the constants of Park and Miller (1988).
struct Random(u64);

impl Random {
    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let byte = |_| {
            self.0 = self.0 * 48_271 % 0x7FFF_FFFF;
            (self.0 >> 8) as u8
        };
        (0..n).map(byte).collect()
    }
}

/// As `Input::number` reads it.
fn number(number: u16) -> Vec<u8> {
    let [low, high] = number.to_le_bytes();
    vec![0, low, high]
}

/// As `Input::weights` reads it: a handful of weights whose exponents are near that of 1.
fn weights(random: &mut Random, kind: u8) -> Vec<u8> {
    let n_known = 31;
    let mut bytes = vec![kind];
    bytes.extend(random.bytes(8));
    bytes.push(n_known);
    for byte in random.bytes(usize::from(n_known) + 1) {
        bytes.extend((0x3F80 - (u16::from(byte % 16) << 7) + u16::from(byte)).to_le_bytes());
    }
    bytes
}

fn main() -> io::Result<()> {
    let to = env::args().nth(1).ok_or_else(|| io::Error::other("seeds DIR"))?;
    let mut random = Random(1);
    let mut seeds: [(&str, Vec<Vec<u8>>); 3] =
        [("compact", vec![]), ("lane", vec![]), ("indexed", vec![])];
    for kind in 1..8 {
        for of_weights in 0..4 {
            for n in [1, 130, 4200] {
                let sizes = number(n - 1);
                let given = weights(&mut random, of_weights);
                let damage = random.bytes(60);
                let splits = [number(n / 3), number(n / 2)].concat();
                let head = [&[kind][..], &sizes, &given];
                seeds[0].1.push([&head.concat(), &splits[..], &damage].concat());
                let columns = number(n / 40);
                let shape = [&[kind][..], &number(39), &columns, &given];
                seeds[1].1.push([&shape.concat(), &damage[..]].concat());
                seeds[2].1.push([&head.concat(), &damage[..]].concat());
            }
        }
    }
    // A sound group as tensors that are any, sizes of launches, and headers.
    let matrix: Vec<u8> = (0..600_u16).flat_map(|i| (0x3F80 - i % 7 * 128).to_le_bytes()).collect();
    let group = compact::encode(&[&matrix[..400], &matrix[400..]]).expect("few weights");
    let mut tensors = vec![0];
    for tensor in group.as_raw("group").tensors() {
        tensors.extend(number(tensor.len() as u16));
        tensors.extend(tensor);
    }
    seeds[0].1.push(tensors);
    seeds[2].1.push([&[0], &random.bytes(120)[..]].concat());
    for of_weights in 0..4 {
        let given = weights(&mut random, of_weights);
        seeds[2].1.push([&[1], &number(17_999)[..], &given, &random.bytes(60)].concat());
    }
    for [n_rows, n_columns] in [[1, 1], [17, 129], [1 << 16, (1 << 16) - 1]] {
        let shape = LaneShape::new(n_rows, n_columns).expect("below 2^32 weights");
        seeds[1].1.push([&[0], &shape.header()[..], &random.bytes(16)].concat());
    }
    // Choices by chance: of a property and its strategies, of sizes, of a model.
    let mut chosen = |n: usize, n_bytes: usize| -> Vec<Vec<u8>> {
        (0..n).map(|_| random.bytes(n_bytes)).collect()
    };
    let plans = (0_u8..72).map(|idx| [&[idx % 24], &chosen(1, 150)[0][..]].concat()).collect();
    let mut seeds = Vec::from(seeds);
    seeds.push(("plans", plans));
    seeds.push(("files", chosen(24, 500)));
    for room in ["select", "attention", "quant", "huffman"] {
        seeds.push((room, chosen(48, 300)));
    }
    seeds.push(("capi", chosen(600, 48)));
    for (target, seeds) in seeds {
        let to = Path::new(&to).join(target);
        fs::create_dir_all(&to)?;
        for (idx, seed) in seeds.iter().enumerate() {
            fs::write(to.join(format!("seed-{idx:03}")), seed)?;
        }
    }
    Ok(())
}
