//! What a caller gets wrong: some leaves of a call that was sound.

use std::collections::HashMap;

use lacuna_fuzz::Input;

use crate::lay::{Call, Part, Place};
use crate::memory::{GAP, Memory};

/// What else there is that a call may take.
#[derive(Default)]
pub(crate) struct Neighbours {
    pub(crate) handles: HashMap<&'static str, Vec<u64>>,
    /// Views of growing caches, with their marks.
    pub(crate) marked: Vec<[u64; 4]>,
}

/// FNV-1a.
pub(crate) fn hash(which: u16, name: &str, more: usize) -> u64 {
    let bytes = which.to_le_bytes().into_iter().chain(name.bytes()).chain([more as u8]);
    let sum = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    sum ^ sum >> 29
}

/// A number: one beside the usual one, one at the borders of what types hold, or any.
fn number(input: &mut Input<'_>, usual: u64) -> u64 {
    let kind = input.byte();
    match kind % 8 {
        0 | 1 => usual.wrapping_add(u64::from(kind >> 3)).wrapping_sub(16),
        2 => u64::from(input.byte()),
        3 => 0,
        4 => u64::MAX - u64::from(kind >> 3),
        5 => (1_u64 << (input.byte() % 64)).wrapping_add(u64::from(kind >> 3)).wrapping_sub(16),
        6 => (u64::from(kind >> 3) + 1) << (input.byte() % 64),
        _ => input.u64() >> (input.byte() % 64),
    }
}

fn real(input: &mut Input<'_>) -> f32 {
    let usual = [0.0, -0.0, 1.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, f32::MAX];
    let idx = usize::from(input.byte());
    usual.get(idx % 16).copied().unwrap_or_else(|| f32::from_bits(input.u32()))
}

/// Spoils up to four leaves. Whether the handles are those that the rest is of.
pub(crate) fn spoil(
    memory: &mut Memory,
    call: &mut Call,
    neighbours: &Neighbours,
    input: &mut Input<'_>,
) -> bool {
    let mut is_own = true;
    for _ in 0..input.byte() % 5 {
        if call.leaves.is_empty() {
            break;
        }
        let idx = usize::from(input.u16()) % call.leaves.len();
        let leaf = &call.leaves[idx];
        let (place, part) = (leaf.place, leaf.part);
        let usual = match place {
            Place::Argument(idx) => call.arguments[idx],
            Place::Memory(at) => memory.read_u64(at),
        };
        let (n_bytes, value) = match part {
            Part::HeaderSize(size) => (4, header_size(memory, place, size, input)),
            Part::HeaderVersion | Part::U32 => (4, number(input, usual & 0xFFFF_FFFF)),
            Part::U64 | Part::ViewLen => (8, number(input, usual)),
            Part::F32 => (4, real(input).to_bits().into()),
            Part::F64 => (8, f64::from(real(input)).to_bits()),
            Part::Count { may_lie: true, .. } => (8, number(input, usual)),
            Part::Count { n, .. } => (
                8,
                match input.byte() {
                    byte if byte % 4 == 0 => u64::MAX >> (byte >> 7) << (byte >> 2 & 31),
                    byte => n.saturating_sub((byte >> 2).into()),
                },
            ),
            Part::Handle(of) => {
                let known = neighbours.handles.get(of).map_or(&[][..], Vec::as_slice);
                let kind = input.byte();
                is_own = false;
                (
                    8,
                    match kind % 4 {
                        0 => 0,
                        1 if usual != 0 => usual & !7 | 1 << (kind >> 2 & 1),
                        _ => known
                            .get(usize::from(kind >> 2) % known.len().max(1))
                            .copied()
                            .unwrap_or(0),
                    },
                )
            }
            Part::Pointer(1) => (8, 0),
            Part::Pointer(alignment) => {
                let kind = u64::from(input.byte());
                (
                    8,
                    if kind % 2 == 0 || usual == 0 {
                        0
                    } else {
                        usual & !(alignment - 1) | (1 + (kind >> 1) % (alignment - 1))
                    },
                )
            }
            Part::View => {
                let Place::Memory(at) = place else { continue };
                let kind = input.byte();
                let known = &neighbours.marked;
                let view = if kind.is_multiple_of(2) || known.is_empty() {
                    [0; 4]
                } else {
                    known[usize::from(kind >> 1) % known.len()]
                };
                memory.put(at, &view[0].to_le_bytes());
                memory.put(at + 8, &view[1].to_le_bytes());
                memory.put(at + 16, &(view[2] as u32).to_le_bytes());
                memory.put(at + 20, &(view[3] as u32).to_le_bytes());
                continue;
            }
            Part::ViewData => {
                let Place::Memory(at) = place else { continue };
                let kind = input.byte();
                // What was spoilt before is no memory of ours.
                if usual == 0 || memory.read_u32(at + 20) != 0 {
                    continue;
                }
                (
                    8,
                    match kind % 4 {
                        0 => 0,
                        1 => usual.saturating_sub(u64::from(kind >> 2) % 33),
                        _ => usual + (1 << (kind >> 2) % 5),
                    },
                )
            }
            Part::Text(len) => {
                let Place::Memory(at) = place else { continue };
                let [place, byte] = [input.byte(), input.byte()];
                // Names, and no paths, are spoilt: files stay where they are.
                let place = len.saturating_sub(1 + usize::from(place) % 3);
                if place < len && byte != b'/' && byte != b'.' {
                    memory.put(at + place as u64, &[byte]);
                }
                continue;
            }
        };
        match place {
            Place::Argument(idx) => {
                call.arguments[idx] = if n_bytes == 4 { value & 0xFFFF_FFFF } else { value };
            }
            Place::Memory(at) => memory.put(at, &value.to_le_bytes()[..n_bytes]),
        }
    }
    is_own
}

/// Sizes that a struct says it has, of which some grow, and what is new is zeros.
fn header_size(memory: &mut Memory, place: Place, size: u32, input: &mut Input<'_>) -> u64 {
    let Place::Memory(at) = place else { return 0 };
    let (kind, size) = (input.byte(), u64::from(size));
    match kind % 4 {
        0 => {
            let n = usize::from(kind >> 2) % GAP;
            let rest = memory.bytes(at + size, n);
            // Behind the last of an array there is nothing.
            if rest.iter().all(|byte| *byte == 0xA5) {
                rest.fill(0);
            }
            size + n as u64
        }
        1 => size.saturating_sub(u64::from(kind >> 2)),
        2 => 1 << (kind >> 2 & 31),
        _ => u64::from(input.u32()),
    }
}
