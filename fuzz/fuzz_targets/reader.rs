//! Any bytes as a checkpoint: no panic, no hang; and where the CPU decoder of a format gives weights, or
//! a reason, the reference gives the same, of DF11 by an index too.
#![no_main]

use lacuna::huffman::{Checkpoint, Stored, compact, lane};
use lacuna_fuzz::{Input, check_group, corrupt_tile, use_one_thread};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: use_one_thread(), |bytes: &[u8]| {
    let Ok(checkpoint) = Checkpoint::from_bytes(bytes.to_vec()) else { return };
    for idx in 0..checkpoint.entries().len() {
        let Ok(Some(stored)) = checkpoint.stored(idx) else { continue };
        let mut expected = vec![0; stored.n_elements() as usize];
        let mut decoded = expected.clone();
        match &stored {
            Stored::Df11(group) => {
                check_group(&mut Input::new(&[]), group);
                continue;
            }
            Stored::Compact(group) => {
                let verdict = compact::reference::decode(group, &mut expected);
                assert_eq!(corrupt_tile(compact::decode(group, &mut decoded)), verdict);
            }
            Stored::Lane(matrix) => {
                lane::reference::unpack(&matrix.planes(), &mut expected);
                lane::unpack(&matrix.planes(), &mut decoded).expect("as many weights");
            }
        }
        assert!(decoded == expected, "{} of {}", stored.format(), stored.name());
    }
});
