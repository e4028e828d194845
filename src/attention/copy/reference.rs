//! What `copy_pages` must do, written for reading.

/// Pools of pages on the host, of which each has the same words of each page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPools {
    /// Of each pool, of each page, its words of 4 bytes.
    pub pools: Vec<Vec<Vec<u32>>>,
}

impl HostPools {
    /// The words of a page, pool by pool; `None` for a number of no page.
    pub fn page(&self, number: i32) -> Option<Vec<&[u32]>> {
        let page = usize::try_from(number).ok()?;
        self.pools.iter().map(|pool| pool.get(page).map(Vec::as_slice)).collect()
    }
}

/// The checksum of a page: exact in any order, 64 bits.
///
/// ```text
/// sum = 0x9E3779B97F4A7C15 + Σ word[i] · (high(i) · 2^32 + 2 i + 1)    mod 2^64
/// ```
///
/// over its words in all pools. That a word changed, and that two different ones changed places, is always seen:
/// the difference of two words is below 2^32, that of two low halves is not a multiple of 2^32, so that their
/// product is no multiple of 2^64. Of anything else, as zeroed sectors, one in about 2^64 is missed, as
/// long as it was not made to be: this is no cryptographic digest, and whoever chooses the bytes can choose the sum.
pub fn checksum(words: impl IntoIterator<Item = u32>) -> u64 {
    let term = |(i, word): (u32, u32)| u64::from(word).wrapping_mul(factor(i));
    (0..).zip(words).map(term).fold(0x9E37_79B9_7F4A_7C15, u64::wrapping_add)
}

/// What the word at `i` is multiplied by.
fn factor(i: u32) -> u64 {
    let mut high = (i + 1).wrapping_mul(0x9E37_79B1);
    high ^= high >> 16;
    high = high.wrapping_mul(0x85EB_CA6B);
    high ^= high >> 13;
    u64::from(high) << 32 | u64::from(2 * i + 1)
}

/// Copies the page of each pair, and returns the checksum of each; 0 of a pair that names no page. Where several
/// pairs name a target, here the last one wins.
pub fn copy_pages(sources: &HostPools, targets: &mut HostPools, pairs: &[[i32; 2]]) -> Vec<u64> {
    let mut copy = |[source, target]: [i32; 2]| {
        let words = sources.page(source)?;
        targets.page(target)?;
        for (pool, words) in targets.pools.iter_mut().zip(&words) {
            pool[target as usize].copy_from_slice(words);
        }
        Some(checksum(words.into_iter().flatten().copied()))
    };
    pairs.iter().map(|pair| copy(*pair).unwrap_or(0)).collect()
}
