//! A DFloat11 checkpoint from disk to bf16 weights, on a GPU where there is one, else on the CPU.
//!
//! `cargo run --release --example decode_checkpoint -- CHECKPOINT`

use half::bf16;
use lacuna::huffman::{self, Checkpoint, DeviceWeights};
use lacuna::{Device, Result};

fn main() -> Result<()> {
    let path = std::env::args_os()
        .nth(1)
        .unwrap_or_else(|| "tests/data/df11/minilm-layer0.df11.safetensors".into());
    let checkpoint = Checkpoint::open(&path)?;
    let groups = checkpoint.groups()?;

    // Which way the weights go is said, never guessed at by whoever reads the numbers later.
    let weights = match Device::open(0) {
        Ok(device) => {
            println!("decoding on {}", device.name());
            decode_on_device(&device, &groups)?
        }
        Err(error) => {
            println!("decoding on the CPU ({error})");
            decode_on_cpu(&groups)?
        }
    };
    println!(
        "{} groups, {} weights; the first: {:?}",
        groups.len(),
        weights.len(),
        weights.first()
    );
    Ok(())
}

fn decode_on_device(device: &Device, groups: &[huffman::Group<'_>]) -> Result<Vec<bf16>> {
    let queue = device.queue()?;
    let mut weights = DeviceWeights::upload(&queue, groups)?;
    weights.index(&queue)?;
    let mut output = queue.alloc::<bf16>(weights.plan().output_len() as usize)?;
    let mut workspace = queue.alloc::<u64>(weights.plan().workspace_len() as usize)?;
    weights.decode(&queue, &mut workspace.view_mut(), &mut output.view_mut())?;
    weights.check(&queue, &workspace.view())?;
    queue.download(&output.view())
}

fn decode_on_cpu(groups: &[huffman::Group<'_>]) -> Result<Vec<bf16>> {
    let mut weights = Vec::new();
    for group in groups {
        let mut bits = vec![0; group.n_elements() as usize];
        huffman::decode(group, &mut bits)?;
        weights.extend(bits.into_iter().map(bf16::from_bits));
    }
    Ok(weights)
}
