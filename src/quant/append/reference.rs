//! Which rows new tokens become, written for reading.

use super::AppendPlan;
use crate::element::Half;
use crate::turn::Turn;

/// New tokens on the host, as [`NewTokens`](crate::quant::NewTokens).
#[derive(Debug, Clone, Copy)]
pub struct HostTokens<'a, T> {
    /// `[batch, n_tokens, n_heads, head_dim]`, tokens the plan's strides apart.
    pub keys: &'a [T],
    /// The same.
    pub values: &'a [T],
    /// `[batch]`, or none: all.
    pub counts: Option<&'a [u32]>,
    /// `[batch, n_tokens]`, or none: all.
    pub keeps: Option<&'a [u32]>,
    /// `[batch, n_tokens]`, or none: those from the length on.
    pub positions: Option<&'a [i32]>,
    /// `[n_positions, rotary_dim]`: cosines, then sines; nothing where keys are not turned.
    pub cos_sin: &'a [f32],
}

/// A cache on the host.
#[derive(Debug)]
pub struct HostRows<'a, T> {
    /// The pool of keys.
    pub keys: &'a mut [T],
    /// The pool of values.
    pub values: &'a mut [T],
    /// `[batch, table_stride]`.
    pub page_table: &'a [i32],
    /// `[batch]`.
    pub lengths: &'a [u32],
}

/// What there is then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// `[batch]`: rows of each request.
    pub new_lengths: Vec<u32>,
    /// `[batch]`: kept tokens that found no room.
    pub dropped: Vec<u32>,
}

/// Appends: the i-th kept token of request `b` becomes row `lengths[b] + i`, up to the first that is of no page.
pub fn append<T: Half>(
    plan: &AppendPlan,
    tokens: &HostTokens<'_, T>,
    rows: &mut HostRows<'_, T>,
) -> Appended {
    let shape = plan.shape();
    let kv = shape.layout.shape();
    let (d, n) = (kv.row_len as usize, shape.n_tokens as usize);
    let mut appended = Appended { new_lengths: rows.lengths.to_vec(), dropped: Vec::new() };
    for (b, length) in rows.lengths.iter().enumerate() {
        let count = tokens.counts.map_or(n, |counts| n.min(counts[b] as usize));
        let is_kept = |t: &usize| tokens.keeps.is_none_or(|keeps| keeps[b * n + t] != 0);
        let mut dropped = 0;
        for t in (0..count).filter(is_kept) {
            let row = u64::from(appended.new_lengths[b]);
            let start = |head| shape.layout.locate(rows.page_table, b as u64, row, head);
            if dropped != 0 || row >= shape.layout.n_rows() || start(0).is_none() {
                dropped += 1;
                continue;
            }
            let position = match tokens.positions {
                Some(positions) => positions[b * n + t].max(0) as u64,
                None => u64::from(*length) + t as u64,
            };
            for head in 0..kv.n_heads {
                let [key, value] = [shape.key_stride, shape.value_stride]
                    .map(|stride| (b * n + t) * stride as usize + head as usize * d);
                let to = start(head).expect("a row of the page");
                rows.values[to..to + d].copy_from_slice(&tokens.values[value..value + d]);
                let key = &tokens.keys[key..key + d];
                rows.keys[to..to + d].copy_from_slice(key);
                if shape.turn == Turn::None {
                    continue;
                }
                let n_turned = shape.rotary_dim as usize;
                let angles = position.min(shape.n_positions - 1) as usize * n_turned;
                let mut turned: Vec<f32> = key[..n_turned].iter().map(|x| x.to_f32()).collect();
                shape.turn.turn(&mut turned, &tokens.cos_sin[angles..angles + n_turned]);
                for (to, x) in rows.keys[to..].iter_mut().zip(turned) {
                    *to = T::from_f32(x);
                }
            }
            appended.new_lengths[b] += 1;
        }
        appended.dropped.push(dropped);
    }
    appended
}
