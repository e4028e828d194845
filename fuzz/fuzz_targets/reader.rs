//! Any bytes as a checkpoint: no panic, no hang; and where the CPU decoder gives weights, or a
//! reason, the reference gives the same, by an index too.
#![no_main]

use lacuna::huffman::Checkpoint;
use lacuna_fuzz::{Input, check_group, use_one_thread};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: use_one_thread(), |bytes: &[u8]| {
    let Ok(checkpoint) = Checkpoint::from_bytes(bytes.to_vec()) else { return };
    for idx in 0..checkpoint.entries().len() {
        let Ok(Some(group)) = checkpoint.group(idx) else { continue };
        check_group(&mut Input::new(&[]), &group);
    }
});
