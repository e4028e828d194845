//! Keys that are turned by their positions: in CUDA C++ `csrc/common/turn.cuh`.

/// How a key is turned by its position (RoPE).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Turn {
    /// Not at all.
    None,
    /// Channel `c` with the one half a head, or half of what is turned, further (GPT-NeoX, Llama).
    #[default]
    Halves,
    /// Each even channel with the next (GPT-J).
    Pairs,
}

impl Turn {
    /// The kernels' number for it.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Halves => 1,
            Self::Pairs => 2,
        }
    }

    /// Turns a key by a position's angles: their cosines, then as many sines; two channels of each.
    pub(crate) fn turn(self, key: &mut [f32], cos_sin: &[f32]) {
        let n_pairs = cos_sin.len() / 2;
        for i in 0..n_pairs {
            let (x, y) = match self {
                Self::None => return,
                Self::Halves => (i, n_pairs + i),
                Self::Pairs => (2 * i, 2 * i + 1),
            };
            let (cosine, sine) = (cos_sin[i], cos_sin[n_pairs + i]);
            (key[x], key[y]) =
                ((-key[y]).mul_add(sine, key[x] * cosine), key[x].mul_add(sine, key[y] * cosine));
        }
    }
}
