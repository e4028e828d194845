//! The memory of calls: everything that a call may read or write lies in it, and what lies there otherwise is poison.

use std::ops::Range;

/// Addresses, so that views of any length up to as many bytes are of memory that is there.
const RESERVED: usize = 1 << 40;
/// What calls lie in.
pub(crate) const USED: usize = 1 << 20;
const POISON: u8 = 0xA5;
/// Poison before and after what is laid down.
pub(crate) const GAP: usize = 64;

pub(crate) struct Memory {
    base: usize,
    used: usize,
    before: Vec<u8>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        let (access, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        // SAFETY: addresses of the system's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), RESERVED, access, flags, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED, "2^40 bytes of addresses");
        let mut memory = Self { base: base.expose_provenance(), used: USED, before: Vec::new() };
        memory.clear();
        memory
    }

    fn all(&mut self) -> &mut [u8] {
        // SAFETY: mapped in `new`, and borrowed as this is.
        unsafe {
            std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut(self.base), USED)
        }
    }

    pub(crate) fn clear(&mut self) {
        let used = (self.used + 8192).min(USED);
        self.all()[..used].fill(POISON);
        self.used = GAP;
    }

    /// The address of so many bytes, if there is room.
    pub(crate) fn take(&mut self, n_bytes: usize, alignment: usize) -> Option<u64> {
        let at = self.used.next_multiple_of(alignment);
        let end = at.checked_add(n_bytes)?;
        // The largest struct that a header may speak of is there behind everything.
        if end > USED - (1 << 17) {
            return None;
        }
        self.used = end + GAP;
        Some((self.base + at) as u64)
    }

    fn place(&self, address: u64) -> usize {
        address as usize - self.base
    }

    pub(crate) fn bytes(&mut self, address: u64, n_bytes: usize) -> &mut [u8] {
        let at = self.place(address);
        &mut self.all()[at..at + n_bytes]
    }

    pub(crate) fn put(&mut self, address: u64, bytes: &[u8]) {
        self.bytes(address, bytes.len()).copy_from_slice(bytes);
    }

    pub(crate) fn read_u64(&mut self, address: u64) -> u64 {
        u64::from_le_bytes(self.bytes(address, 8).try_into().expect("8 bytes"))
    }

    pub(crate) fn read_u32(&mut self, address: u64) -> u32 {
        u32::from_le_bytes(self.bytes(address, 4).try_into().expect("4 bytes"))
    }

    /// What lies there, to be told.
    pub(crate) fn words(&mut self, address: u64) -> Vec<u64> {
        let is_ours = (self.base..self.base + USED - 128).contains(&(address as usize));
        let words = (0..16).take_while(|_| is_ours);
        words.map(|idx| self.read_u64(address + 8 * idx)).collect()
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    fn seen(&self) -> usize {
        (self.used + 4096).min(USED)
    }

    pub(crate) fn remember(&mut self) {
        let mut before = std::mem::take(&mut self.before);
        before.clear();
        let seen = self.seen();
        before.extend_from_slice(&self.all()[..seen]);
        self.before = before;
    }

    /// The first place whose byte is not what it was, outside what may be written.
    pub(crate) fn changed(&mut self, writable: &[Range<u64>]) -> Option<(usize, u64)> {
        let (seen, base) = (self.seen(), self.base as u64);
        let before = std::mem::take(&mut self.before);
        let now = &self.all()[..seen];
        let changed = if now == &before[..] {
            None
        } else {
            let is_free =
                |at: usize| writable.iter().any(|range| range.contains(&(base + at as u64)));
            let at = (0..seen).find(|at| now[*at] != before[*at] && !is_free(*at));
            at.map(|at| (at, base + at as u64))
        };
        self.before = before;
        changed
    }

    /// What all of it holds, in a few bytes (FNV-1a, by words).
    pub(crate) fn digest(&mut self) -> u64 {
        let seen = self.seen() / 8 * 8;
        self.all()[..seen].chunks_exact(8).fold(0xcbf2_9ce4_8422_2325, |sum, word| {
            let word = u64::from_le_bytes(word.try_into().expect("8 bytes"));
            (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
        })
    }
}
