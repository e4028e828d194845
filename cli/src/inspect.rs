//! `inspect`: what a checkpoint spends its bits on.

use std::path::Path;
use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets};
use lacuna::huffman::{Checkpoint, Group, Progress};
use serde_json::{Value, json};

use crate::Outcome;
use crate::report::{Bar, bytes, percent, print};

/// What is shown of a group.
struct Row {
    name: String,
    n_elements: u64,
    n_matrices: usize,
    n_bytes: u64,
    code_bytes: u64,
    side_bytes: u64,
    shortest: u8,
    longest: u8,
    n_exponents: usize,
    entropy_bits: f64,
    code_bits: f64,
    n_lut_rows: u32,
    checksum: bool,
    warnings: Vec<String>,
}

impl Row {
    fn read(group: &Group<'_>, weights: &[u16], checksum: bool) -> Self {
        let mut histogram = [0_u64; 256];
        for weight in weights {
            histogram[usize::from(weight >> 7 & 0xFF)] += 1;
        }
        let n = group.n_elements() as f64;
        let share = |count: &&u64| **count > 0;
        let entropy_bits = histogram
            .iter()
            .filter(share)
            .map(|count| {
                let p = *count as f64 / n;
                -p * p.log2()
            })
            .sum();
        let used = group.code_lengths().iter().copied().filter(|length| *length > 0);
        let raw = group.raw();
        Self {
            name: group.name().to_owned(),
            n_elements: group.n_elements(),
            n_matrices: group.n_matrices(),
            n_bytes: group.n_bytes(),
            code_bytes: raw.encoded_exponent.len() as u64,
            side_bytes: group.n_bytes() - (raw.encoded_exponent.len() as u64) - group.n_elements(),
            shortest: used.clone().min().unwrap_or(0),
            longest: used.max().unwrap_or(0),
            n_exponents: histogram.iter().filter(share).count(),
            entropy_bits,
            code_bits: 8.0 * raw.encoded_exponent.len() as f64 / n,
            n_lut_rows: group.n_lut_rows(),
            checksum,
            warnings: group.warnings(),
        }
    }

    fn bits_per_weight(&self) -> f64 {
        8.0 * self.n_bytes as f64 / self.n_elements as f64
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "elements": self.n_elements,
            "matrices": self.n_matrices,
            "bytes": self.n_bytes,
            "code_bytes": self.code_bytes,
            "side_bytes": self.side_bytes,
            "bits_per_weight": self.bits_per_weight(),
            "exponents": self.n_exponents,
            "exponent_entropy_bits": self.entropy_bits,
            "exponent_code_bits": self.code_bits,
            "shortest_code_bits": self.shortest,
            "longest_code_bits": self.longest,
            "decode_tables": self.n_lut_rows,
            "checksum": self.checksum,
            "warnings": self.warnings,
        })
    }
}

pub(crate) fn run(path: &Path, as_json: bool) -> Outcome {
    let text = |error: lacuna::Error| error.to_string();
    let checkpoint = Checkpoint::open(path).map_err(text)?;
    let groups = checkpoint.groups().map_err(text)?;
    let bar = Bar::new();
    let mut progress = Progress {
        group: "",
        done_bytes: 0,
        total_bytes: groups.iter().map(|group| 2 * group.n_elements()).sum(),
        compressed_bytes: 0,
    };
    let mut rows = Vec::new();
    for (idx, (entry, group)) in checkpoint.entries().iter().zip(&groups).enumerate() {
        let (weights, _) = checkpoint.decode_checked(idx, group).map_err(text)?;
        rows.push(Row::read(group, &weights, entry.checksum.is_some()));
        progress.group = &entry.name;
        progress.done_bytes += 2 * group.n_elements();
        progress.compressed_bytes += group.n_bytes();
        bar.show(&progress);
    }
    drop(bar);
    let plain = checkpoint.plain_tensors();
    let plain_bytes: u64 = plain.iter().map(|(_, _, _, bytes)| bytes.len() as u64).sum();
    if as_json {
        let report = json!({
            "path": path.display().to_string(),
            "groups": rows.iter().map(Row::to_json).collect::<Vec<_>>(),
            "plain_tensors": plain.len(),
            "plain_bytes": plain_bytes,
        });
        print(&format!("{report:#}\n"))?;
    } else {
        print(&render(&rows, plain.len(), plain_bytes))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(rows: &[Row], n_plain: usize, plain_bytes: u64) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "group", "weights", "DF11", "of bf16", "bits/w", "exponent", "entropy", "codes", "tables",
        "side", "checksum",
    ]);
    for row in rows {
        table.add_row([
            row.name.clone(),
            row.n_elements.to_string(),
            bytes(row.n_bytes),
            percent(row.n_bytes, 2 * row.n_elements),
            format!("{:.3}", row.bits_per_weight()),
            format!("{:.3}", row.code_bits),
            format!("{:.3}", row.entropy_bits),
            format!("{}-{}", row.shortest, row.longest),
            row.n_lut_rows.to_string(),
            bytes(row.side_bytes),
            if row.checksum { "yes" } else { "none" }.to_owned(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = table.trim_fmt();
    text += &format!(
        "\n{n_plain} other tensors, {}; exponent, entropy: bits spent on an exponent, and the least \
         possible without context\n",
        bytes(plain_bytes)
    );
    for row in rows {
        for warning in &row.warnings {
            text += &format!("warning: {}: {warning}\n", row.name);
        }
    }
    text
}
