//! Words in bytes of a file.

use std::borrow::Cow;

use bytemuck::Pod;

/// Little-endian words, copied where they are not aligned; bytes that are no whole word are left out.
pub(crate) fn words<T: Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(words) => Cow::Borrowed(words),
        Err(_) => bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect(),
    }
}
