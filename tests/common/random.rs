//! Numbers by chance.

/// Numbers from a seed.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Any 32 bits.
    pub(crate) fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        super::word_of(self.0)
    }

    /// Below 2^31.
    pub(crate) fn next(&mut self) -> u64 {
        u64::from(self.word() >> 1)
    }

    /// Below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    /// From -1 to 1, in steps that bf16 and fp8 do not all have.
    pub(crate) fn number(&mut self) -> f32 {
        (self.next() % 4001) as f32 / 2000.0 - 1.0
    }

    /// About normal, of variance 1.
    pub(crate) fn normal(&mut self) -> f32 {
        let sum: f32 = (0..12).map(|_| (self.next() % 65_536) as f32 / 65_536.0).sum();
        sum - 6.0
    }
}
