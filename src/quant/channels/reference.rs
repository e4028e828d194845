//! Means of channels and root mean squares around them: every rounding.

use crate::element::Half;

/// Slots of a piece, and its chains.
const PIECE: usize = 512;
const CHAINS: usize = 8;

/// Of numbers: how many, their mean, and the sum of the squares of what each is away from it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Moments {
    /// How many.
    pub n: u32,
    /// Their mean; 0 of none.
    pub mean: f32,
    /// The sum of squares.
    pub squares: f32,
}

impl Moments {
    /// Of one chain, relative to its first number, if that is one. Numbers that are not finite have no part in it.
    pub fn of_chain(numbers: impl IntoIterator<Item = f32>) -> Self {
        let mut numbers = numbers.into_iter().peekable();
        let pivot = numbers.peek().copied().filter(|x| x.is_finite()).unwrap_or(0.0);
        let (mut n, mut sum, mut squares) = (0, 0.0_f32, 0.0_f32);
        for x in numbers.filter(|x| x.is_finite()) {
            let apart = x - pivot;
            n += 1;
            sum += apart;
            squares = apart.mul_add(apart, squares);
        }
        let shift = if n == 0 { 0.0 } else { sum / n as f32 };
        let around = (-sum).mul_add(shift, squares);
        Self { n, mean: pivot + shift, squares: if around < 0.0 { 0.0 } else { around } }
    }

    /// Of both together.
    pub fn join(self, more: Self) -> Self {
        if more.n == 0 {
            return self;
        }
        if self.n == 0 {
            return more;
        }
        let n = self.n + more.n;
        let share = more.n as f32 / n as f32;
        let apart = more.mean - self.mean;
        let between = (apart * apart) * (self.n as f32 * share);
        Self {
            n,
            mean: apart.mul_add(share, self.mean),
            squares: (self.squares + more.squares) + between,
        }
    }
}

/// Of each channel.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Measured {
    /// What is taken from its numbers; nothing where offsets are not asked for.
    pub offsets: Vec<f32>,
    /// What they are divided by.
    pub scales: Vec<f32>,
}

/// What a span's channels are relative to: of each slot its row, if there is one.
///
/// Slots `8 j + c` of each 512 are a chain; the eight are joined in their order, and the pieces of 512 then in theirs. Without offsets, scales are
/// root mean squares of the numbers themselves. Of a channel that is one number, or none, the scale is 1; what is too large is the greatest number.
pub fn measure<T: Half>(slots: &[Option<&[T]>], head_dim: usize, has_offsets: bool) -> Measured {
    let mut measured = Measured::default();
    for channel in 0..head_dim {
        let of_chain = |piece: &[Option<&[T]>], chain: usize| {
            let rows = piece.iter().skip(chain).step_by(CHAINS).flatten();
            Moments::of_chain(rows.map(|row| row[channel].to_f32()))
        };
        let of_piece = |piece: &[Option<&[T]>]| {
            (0..CHAINS).map(|chain| of_chain(piece, chain)).fold(Moments::default(), Moments::join)
        };
        let all = slots.chunks(PIECE).map(of_piece).fold(Moments::default(), Moments::join);
        let mut square = if all.n == 0 { 0.0 } else { all.squares / all.n as f32 };
        if has_offsets {
            measured.offsets.push(if all.mean.is_finite() { all.mean } else { 0.0 });
        } else {
            square = all.mean.mul_add(all.mean, square);
        }
        let scale = square.sqrt();
        measured.scales.push(match scale {
            scale if scale < f32::MIN_POSITIVE => 1.0,
            scale if scale.is_finite() => scale,
            _ => f32::MAX,
        });
    }
    measured
}
