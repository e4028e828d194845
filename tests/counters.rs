//! What the kernels of each room move, beside the least that any kernel could, and the budgets that
//! hold them to it. `cargo xtask counters` prints the rows.
//!
//! The figures are of the SIMT executor, and the same on every machine: 32-byte sectors of warp
//! requests, as if no cache served two of them at once.

mod common;

use std::io::Write as _;

use half::bf16;
use lacuna::Queue;
use lacuna::huffman::{self, DeviceWeights, Group};
use lacuna::mma::{self, Factor, Instruction};
use lacuna::simt::{Checks, Config, Counters, Recorder, Space};

/// One launch of a kernel.
struct Row<'a> {
    kernel: &'a str,
    shape: &'a str,
    counters: &'a Counters,
    least_bytes: u64,
}

/// What a launch may cost.
struct Budget {
    /// Bytes moved, over the least.
    bytes: f64,
    sectors_per_request: f64,
    conflict_ways: f64,
    /// Of one thread block.
    barriers: f64,
}

impl Row<'_> {
    fn moved_bytes(&self) -> u64 {
        self.counters.read_bytes() + self.counters.write_bytes()
    }

    /// Prints the row for people; and as JSON to the end of the file that `LACUNA_COUNTERS` names.
    fn report(&self) {
        let Self { kernel, shape, counters, least_bytes } = self;
        let (read, write) = (counters.read_bytes(), counters.write_bytes());
        let sectors = counters.sectors_per_request();
        let ways = counters.conflict_ways();
        let barriers = counters.n_barriers;
        let ratio = self.moved_bytes() as f64 / *least_bytes as f64;
        println!("{kernel}, {shape}");
        println!("  {read} bytes read, {write} written: {ratio:.3} of the least, {least_bytes}");
        println!("  {sectors:.2} sectors a request, {ways:.2} passes over the banks a request");
        let (collectives, atomics) = (counters.n_collectives, counters.n_atomics);
        println!("  {barriers} barriers, {collectives} warp collectives, {atomics} atomics");
        for line in &counters.lines {
            let (file, number) = line.location.as_ref().map_or(("?", 0), |(file, number)| {
                (file.rsplit_once("csrc/").map_or(file.as_str(), |(_, tail)| tail), *number)
            });
            let unit = if line.space == Space::Global { "sectors" } else { "passes" };
            let what = format!("{:?} {:?}", line.space, line.direction).to_lowercase();
            println!(
                "    {file}:{number:<4} {what:<14} {:>9} requests {:>10} bytes {:>6.2} {unit}, at most {}",
                line.n_requests,
                line.n_bytes,
                line.n_units as f64 / line.n_requests as f64,
                line.most_units,
            );
        }
        let Some(path) = std::env::var_os("LACUNA_COUNTERS") else { return };
        let row = format!(
            "{{\"kernel\": \"{kernel}\", \"shape\": \"{shape}\", \"read_bytes\": {read}, \
             \"write_bytes\": {write}, \"least_bytes\": {least_bytes}, \
             \"sectors_per_request\": {sectors:.3}, \"conflict_ways\": {ways:.3}, \
             \"barriers\": {barriers}}}"
        );
        let mut file = std::fs::File::options().append(true).create(true).open(path).unwrap();
        writeln!(file, "{row}").unwrap();
    }

    #[track_caller]
    fn assert_within(&self, budget: &Budget, n_blocks: u32) {
        let what = format!("{}, {}", self.kernel, self.shape);
        let ratio = self.moved_bytes() as f64 / self.least_bytes as f64;
        assert!(ratio >= 0.99, "{what}: {ratio} of the least is less than it");
        assert!(ratio <= budget.bytes, "{what}: {ratio} of the least bytes");
        let sectors = self.counters.sectors_per_request();
        assert!(sectors <= budget.sectors_per_request, "{what}: {sectors} sectors a request");
        let ways = self.counters.conflict_ways();
        assert!(ways <= budget.conflict_ways, "{what}: {ways} passes over the banks a request");
        let barriers = self.counters.n_barriers as f64 / f64::from(n_blocks);
        assert!(barriers <= budget.barriers, "{what}: {barriers} barriers a block");
    }
}

/// Counts the one launch that `launch` makes, which says its least bytes and its blocks.
fn count(
    kernel: &str,
    shape: &str,
    budget: &Budget,
    launch: impl FnOnce(&Queue) -> lacuna::Result<(u64, u32)>,
) {
    let recorder = Recorder::default();
    let config =
        Config { recorder: Some(recorder.clone()), checks: Checks::ALL, ..Config::default() };
    let (least_bytes, n_blocks) = launch(&Queue::simt(config)).unwrap();
    let launches = recorder.take();
    assert_eq!(launches.len(), 1);
    let row = Row { kernel, shape, counters: &launches[0], least_bytes };
    row.report();
    row.assert_within(budget, n_blocks);
}

fn count_decode(shape: &str, groups: &[Group<'_>], budget: &Budget) {
    count("huffman/decode_bf16", shape, budget, |queue| {
        let weights = DeviceWeights::upload(queue, groups)?;
        let plan = weights.plan();
        let mut output = queue.alloc::<bf16>(plan.output_len() as usize)?;
        let mut workspace = queue.alloc::<u64>(plan.workspace_len() as usize)?;
        weights.decode(queue, &mut workspace.view_mut(), &mut output.view_mut())?;
        Ok((plan.least_bytes(), plan.grid().blocks[0]))
    });
}

#[test]
fn mma() {
    const N_PRODUCTS: usize = 64;
    // `wgmma` takes its fragments of `a` from global memory: half a sector at a time.
    for (instruction, kernel, bytes, sectors, barriers) in [
        (Instruction::Mma, "mma/mma_products", 1.0, 9.4, 0.0),
        (Instruction::Wgmma, "mma/wgmma_products", 1.33, 8.0, 1.0),
    ] {
        let budget = Budget { bytes, sectors_per_request: sectors, conflict_ways: 1.5, barriers };
        let shape = format!("{N_PRODUCTS} products of i8");
        count(kernel, &shape, &budget, |queue| {
            let n_rows = N_PRODUCTS * instruction.n_rows();
            let a = queue.upload(&vec![1_u8; n_rows * 32])?;
            let b = queue.upload(&[1_u8; N_PRODUCTS * 8 * 32])?;
            let c = queue.upload(&vec![0_u32; n_rows * 8])?;
            let mut d = queue.alloc::<u32>(c.len())?;
            let least_bytes = a.len() + b.len() + 4 * (c.len() + d.len());
            let (a, b, c) = (a.view(), b.view(), c.view());
            mma::multiply(queue, instruction, Factor::I8, &a, &b, &c, &mut d.view_mut())?;
            Ok((least_bytes as u64, N_PRODUCTS as u32))
        });
    }
}

#[test]
fn huffman() {
    // Beyond the least: tables and group records that every block reads again.
    let budget =
        Budget { bytes: 1.31, sectors_per_request: 4.6, conflict_ways: 1.65, barriers: 7.0 };
    for (file, shape, bytes) in [
        ("minilm-layer0.df11.safetensors", "MiniLM layer 0, 1.77 M weights", 1.31),
        ("qwen3-4b-slice.df11.safetensors", "Qwen3-4B slice, 46,096 weights", 1.35),
    ] {
        let checkpoint = huffman::Checkpoint::open(common::data(file)).unwrap();
        count_decode(shape, &checkpoint.groups().unwrap(), &Budget { bytes, ..budget });
    }
    let encoded = common::encode(&common::clustered_weights(1 << 16, 1));
    let group = encoded.as_raw("clustered").parse().unwrap();
    count_decode("clustered, 64 Ki weights", &[group], &budget);
}
