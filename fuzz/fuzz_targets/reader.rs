//! Any bytes as a checkpoint: no panic, no hang; and where the CPU decoder gives weights, or a
//! reason, the reference gives the same.
#![no_main]

use lacuna::huffman::{self, Checkpoint, reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: Vec<u8>| {
    let Ok(checkpoint) = Checkpoint::from_bytes(bytes) else { return };
    for idx in 0..checkpoint.entries().len() {
        let Ok(Some(group)) = checkpoint.group(idx) else { continue };
        let mut decoded = vec![0; group.n_elements() as usize];
        let mut expected = decoded.clone();
        assert_eq!(
            huffman::decode(&group, &mut decoded),
            reference::decode(group.raw(), &mut expected)
        );
        assert!(decoded == expected);
    }
});
