//! `bench`: what a token's pass through a model's matrices takes, in bf16, DF11 and lanes.

mod cublas;
mod measure;
mod models;

use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets};
use lacuna::Device;
use lacuna::huffman::Costs;
use lacuna::huffman::lane::{LaneShape, MOST_INPUTS};
use serde_json::json;

use crate::Outcome;
use crate::report::{bytes, print};
use cublas::Cublas;
use measure::{Bench, Bytes, Times, normal_weights};
use models::{Block, Sizes};

/// What an H200's memory moves in a second, by its data sheet: the limit where no GPU says its own.
const H200: f64 = 4.8e12;
/// Weights by which bits are estimated where nothing is measured: rows and columns.
const SAMPLE: [u64; 2] = [1024, 1024];

/// What is asked for.
pub(crate) struct Options<'a> {
    pub(crate) model: &'a str,
    pub(crate) n_inputs: u64,
    pub(crate) device: usize,
    /// In GB/s, in place of the device's own.
    pub(crate) bandwidth: Option<f64>,
    pub(crate) json: bool,
}

/// One way from weights to a token.
struct Row {
    way: &'static str,
    /// What weights take in device memory.
    n_bytes: u64,
    /// What a token moves.
    moved: u64,
    seconds: Option<f64>,
}

pub(crate) fn run(options: &Options<'_>) -> Outcome {
    if !(1..=MOST_INPUTS).contains(&options.n_inputs) {
        return Err(format!("--inputs {}: 1 to {MOST_INPUTS}", options.n_inputs));
    }
    if let Some(rate) = options.bandwidth.filter(|rate| !(rate.is_normal() && *rate > 0.0)) {
        return Err(format!("--bandwidth {rate}: GB/s, more than 0"));
    }
    let sizes = Sizes::of(options.model)?;
    let blocks = sizes.blocks();
    let text = |error: lacuna::Error| error.to_string();
    let mut notes = Vec::new();
    let (device, weights, times) = match Device::open(options.device) {
        Err(error) => {
            notes.push(format!("nothing is measured: {error}"));
            (None, estimate(&blocks).map_err(text)?, None)
        }
        Ok(device) => {
            let queue = device.queue().map_err(text)?;
            let cublas = Cublas::open(&device)
                .map_err(|why| notes.push(format!("products of bf16 are not measured: {why}")))
                .ok();
            let n_cached = device.info().l2_bytes;
            let mut bench =
                Bench::new(&queue, &blocks, options.n_inputs, n_cached).map_err(text)?;
            let times = bench.run(&queue, cublas.as_ref())?;
            (Some(device), bench.bytes(), Some(times))
        }
    };
    let of_device = device.as_ref().map(|device| device.info().memory_bytes_per_second as f64);
    let own = of_device.filter(|rate| *rate > 0.0);
    let rate = match (options.bandwidth, own) {
        (Some(gigabytes), _) => 1e9 * gigabytes,
        (None, Some(own)) => own,
        (None, None) => {
            notes.push("limits are an H200's; --bandwidth names another".to_owned());
            H200
        }
    };
    let on = device.as_ref().map_or("no GPU".to_owned(), |device| device.name().to_owned());
    let rows = rows(weights, times);
    let n_weights: Vec<_> = blocks.iter().map(Block::n_weights).collect();
    let head = format!(
        "{}: {} layers of {:.1} M weights and {:.1} M after them; tokens at once: {}\n\
         on {on}, memory {}/s; weights are normal, their bits: {:.2} as df11, {:.2} as lane\n",
        sizes.name,
        sizes.n_layers,
        n_weights[0] as f64 / 1e6,
        n_weights[1] as f64 / 1e6,
        options.n_inputs,
        bytes(rate as u64),
        16.0 * weights.df11 as f64 / weights.bf16 as f64,
        16.0 * weights.lane as f64 / weights.bf16 as f64,
    );
    let report = if options.json {
        let ways = rows.iter().map(|row| {
            json!({
                "way": row.way,
                "bytes": row.n_bytes,
                "moved_bytes": row.moved,
                "limit_seconds": row.moved as f64 / rate,
                "seconds": row.seconds,
            })
        });
        let report = json!({
            "model": sizes.name,
            "tokens_at_once": options.n_inputs,
            "device": device.as_ref().map(Device::name),
            "bytes_per_second": rate,
            "ways": ways.collect::<Vec<_>>(),
            "notes": notes,
        });
        format!("{report:#}\n")
    } else {
        head + &render(&rows, rate, &notes)
    };
    print(&report)?;
    Ok(ExitCode::SUCCESS)
}

/// What the weights would take, by a sample.
fn estimate(blocks: &[Block]) -> lacuna::Result<Bytes> {
    let [n_rows, n_columns] = SAMPLE;
    let sample = normal_weights((n_rows * n_columns) as usize);
    let shape = LaneShape::new(n_rows, n_columns)?;
    let costs = Costs::new(&[(bytemuck::cast_slice(&sample), Some(shape))])?;
    let bf16: u64 = blocks.iter().map(|block| 2 * block.n_times * block.n_weights()).sum();
    let scaled = |n_bytes: u64| (bf16 as f64 * n_bytes as f64 / costs.bf16 as f64) as u64;
    Ok(Bytes { bf16, df11: scaled(costs.df11), lane: scaled(costs.lane.unwrap_or(costs.bf16)) })
}

fn rows(weights: Bytes, times: Option<Times>) -> [Row; 4] {
    let Bytes { bf16, df11, lane } = weights;
    let products = times.and_then(|times| times.bf16);
    let expand = times.map(|times| times.expand);
    [
        Row { way: "bf16, cuBLAS", n_bytes: bf16, moved: bf16, seconds: products },
        Row { way: "df11, expanded to bf16", n_bytes: df11, moved: df11 + bf16, seconds: expand },
        Row {
            way: "df11, expanded, cuBLAS",
            n_bytes: df11,
            moved: df11 + 2 * bf16,
            seconds: expand.zip(products).map(|(expand, products)| expand + products),
        },
        Row {
            way: "lane, as it lies",
            n_bytes: lane,
            moved: lane,
            seconds: times.map(|times| times.lane),
        },
    ]
}

fn render(rows: &[Row], rate: f64, notes: &[String]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["way", "weights", "moved", "limit", "time", "of limit"]);
    let ms = |seconds: f64| format!("{:.3} ms", 1e3 * seconds);
    for row in rows {
        let limit = row.moved as f64 / rate;
        let of_limit = |seconds: f64| format!("{:.1} %", 100.0 * limit / seconds);
        table.add_row([
            row.way.to_owned(),
            bytes(row.n_bytes),
            bytes(row.moved),
            ms(limit),
            row.seconds.map_or("-".to_owned(), ms),
            row.seconds.map_or("-".to_owned(), of_limit),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = table.trim_fmt() + "\n";
    text += "a token's pass through all matrices; limit: what is moved, at that rate\n";
    for note in notes {
        text += &format!("{note}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_add_up_and_stand_beside_their_limits() {
        let weights = Bytes { bf16: 1_000_000_000, df11: 700_000_000, lane: 750_000_000 };
        let times = Times { bf16: Some(0.5e-3), expand: 1e-3, lane: 0.5e-3 };
        let measured = rows(weights, Some(times));
        assert_eq!(measured[2].moved, 2_700_000_000);
        assert!((measured[2].seconds.unwrap() - 1.5e-3).abs() < 1e-9);
        let text = render(&measured, 2e12, &["a note".to_owned()]);
        let lane = text.lines().find(|line| line.contains("lane")).unwrap();
        assert!(lane.contains("0.375 ms") && lane.contains("0.500 ms"), "{lane}");
        assert!(lane.contains("75.0 %"), "{lane}");
        assert!(text.ends_with("a note\n"));
        let without = rows(weights, Some(Times { bf16: None, ..times }));
        assert_eq!([without[0].seconds, without[2].seconds], [None, None]);
        assert!(rows(weights, None).iter().all(|row| row.seconds.is_none()));
    }
}
