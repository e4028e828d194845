//! `inspect`: what weights spend their bits on, and what they would in other formats.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets};
use lacuna::huffman::lane::LaneShape;
use lacuna::huffman::{
    Checkpoint, Costs, Format, GroupPattern, Model, ModelGroup, Progress, Stored,
};
use serde_json::{Value, json};

use crate::Outcome;
use crate::report::{Bar, bytes, percent, print};

/// What is shown of a group.
struct Row {
    name: String,
    n_matrices: usize,
    costs: Costs,
    stored: Option<StoredRow>,
}

/// And of what is compressed.
struct StoredRow {
    format: Format,
    n_bytes: u64,
    checksum: bool,
    warnings: Vec<String>,
    codes: Option<Codes>,
    n_lut_rows: Option<u32>,
    n_escapes: Option<u64>,
}

/// And where exponents have codes.
struct Codes {
    n_bytes: u64,
    shortest: u8,
    longest: u8,
}

impl StoredRow {
    fn read(stored: &Stored<'_>, checksum: bool) -> Self {
        let codes = |bytes: &[u8], lengths: &[u8]| {
            let used = lengths.iter().copied().filter(|length| *length > 0);
            Codes {
                n_bytes: bytes.len() as u64,
                shortest: used.clone().min().unwrap_or(0),
                longest: used.max().unwrap_or(0),
            }
        };
        let (codes, n_lut_rows, n_escapes) = match stored {
            Stored::Df11(group) => (
                Some(codes(group.raw().encoded_exponent, group.code_lengths())),
                Some(group.n_lut_rows()),
                None,
            ),
            Stored::Compact(group) => {
                (Some(codes(group.raw().codes, group.code().lengths())), None, None)
            }
            Stored::Lane(matrix) => (None, None, Some(matrix.n_escapes())),
        };
        Self {
            format: stored.format(),
            n_bytes: stored.n_bytes(),
            checksum,
            warnings: stored.warnings(),
            codes,
            n_lut_rows,
            n_escapes,
        }
    }
}

impl Row {
    fn bits(&self, n_bytes: u64) -> f64 {
        8.0 * n_bytes as f64 / self.costs.n_weights() as f64
    }

    /// Bytes as it is, compressed or not.
    fn n_bytes(&self) -> u64 {
        self.stored.as_ref().map_or(self.costs.bf16, |stored| stored.n_bytes)
    }

    fn to_json(&self) -> Value {
        let costs = &self.costs;
        let mut report = json!({
            "name": self.name,
            "format": self.stored.as_ref().map_or("bf16", |stored| stored.format.name()),
            "elements": costs.n_weights(),
            "matrices": self.n_matrices,
            "bytes": self.n_bytes(),
            "bits_per_weight": self.bits(self.n_bytes()),
            "exponents": costs.n_exponents(),
            "exponent_entropy_bits": costs.exponent_entropy_bits(),
            "bytes_as": {
                "bf16": costs.bf16, "df11": costs.df11, "compact": costs.compact, "lane": costs.lane,
            },
        });
        let Some(stored) = &self.stored else { return report };
        report["checksum"] = json!(stored.checksum);
        report["warnings"] = json!(stored.warnings);
        if let Some(codes) = &stored.codes {
            report["code_bytes"] = json!(codes.n_bytes);
            report["side_bytes"] = json!(stored.n_bytes - codes.n_bytes - costs.n_weights());
            report["exponent_code_bits"] = json!(self.bits(codes.n_bytes));
            report["shortest_code_bits"] = json!(codes.shortest);
            report["longest_code_bits"] = json!(codes.longest);
        }
        if let Some(n_lut_rows) = stored.n_lut_rows {
            report["decode_tables"] = json!(n_lut_rows);
        }
        if let Some(n_escapes) = stored.n_escapes {
            report["escapes"] = json!(n_escapes);
        }
        report
    }

    /// Cells of the table.
    fn cells(&self) -> Vec<String> {
        let bits = |n_bytes| format!("{:.3}", self.bits(n_bytes));
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let (costs, stored) = (&self.costs, self.stored.as_ref());
        let codes = stored.and_then(|stored| stored.codes.as_ref());
        vec![
            self.name.clone(),
            costs.n_weights().to_string(),
            stored.map_or("bf16", |stored| stored.format.name()).to_owned(),
            bytes(self.n_bytes()),
            percent(self.n_bytes(), costs.bf16),
            bits(self.n_bytes()),
            format!("{:.3}", costs.exponent_entropy_bits()),
            or_dash(codes.map(|codes| bits(codes.n_bytes))),
            or_dash(codes.map(|codes| format!("{}-{}", codes.shortest, codes.longest))),
            or_dash(stored.and_then(|stored| Some(stored.n_escapes?.to_string()))),
            or_dash(stored.map(|stored| if stored.checksum { "yes" } else { "no" }.to_owned())),
            bits(costs.df11),
            bits(costs.compact),
            or_dash(costs.lane.map(bits)),
        ]
    }
}

/// Tensors that are in no group.
struct Plain {
    n_tensors: usize,
    n_bytes: u64,
}

pub(crate) fn run(path: &Path, as_json: bool) -> Outcome {
    let (rows, plain) = match Checkpoint::open(path) {
        Ok(checkpoint) => read_checkpoint(&checkpoint)?,
        // An uncompressed model says what it would take.
        Err(reason) => read_model(path)?.ok_or_else(|| reason.to_string())?,
    };
    if as_json {
        let report = json!({
            "path": path.display().to_string(),
            "groups": rows.iter().map(Row::to_json).collect::<Vec<_>>(),
            "plain_tensors": plain.n_tensors,
            "plain_bytes": plain.n_bytes,
        });
        print(&format!("{report:#}\n"))?;
    } else {
        print(&render(&rows, &plain))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows how far reading is.
struct Work {
    bar: Bar,
    done_bytes: u64,
    compressed_bytes: u64,
    total_bytes: u64,
}

impl Work {
    fn new(total_bytes: u64) -> Self {
        Self { bar: Bar::new(), done_bytes: 0, compressed_bytes: 0, total_bytes }
    }

    fn show(&mut self, row: &Row) {
        self.done_bytes += row.costs.bf16;
        self.compressed_bytes += row.n_bytes();
        self.bar.show(&Progress {
            group: &row.name,
            done_bytes: self.done_bytes,
            total_bytes: self.total_bytes,
            compressed_bytes: self.compressed_bytes,
        });
    }
}

fn read_checkpoint(checkpoint: &Checkpoint) -> Result<(Vec<Row>, Plain), String> {
    let text = |error: lacuna::Error| error.to_string();
    let groups = checkpoint.all_stored().map_err(text)?;
    let mut work = Work::new(groups.iter().map(|group| 2 * group.n_elements()).sum());
    let mut rows = Vec::new();
    for (idx, (entry, group)) in checkpoint.entries().iter().zip(&groups).enumerate() {
        let (weights, _) = checkpoint.decode_checked(idx, group).map_err(text)?;
        let ranges = group.matrices();
        let matrices: Vec<_> = ranges
            .iter()
            .enumerate()
            .map(|(place, range)| {
                let weights = &weights[range.start as usize..range.end as usize];
                let bytes: &[u8] = bytemuck::cast_slice(weights);
                (bytes, checkpoint.shape_of(idx, place, group).and_then(|shape| lane_shape(&shape)))
            })
            .collect();
        let row = Row {
            name: entry.name.clone(),
            n_matrices: ranges.len(),
            costs: Costs::new(&matrices).map_err(text)?,
            stored: Some(StoredRow::read(group, entry.checksum.is_some())),
        };
        work.show(&row);
        rows.push(row);
    }
    let n_bytes = checkpoint.plain_tensors().map(|tensor| tensor.bytes.len() as u64).sum();
    Ok((rows, Plain { n_tensors: checkpoint.plain_tensors().len(), n_bytes }))
}

/// `None` where it is no model of which something would be compressed.
fn read_model(path: &Path) -> Result<Option<(Vec<Row>, Plain)>, String> {
    let Ok(model) = Model::open(&[PathBuf::from(path)]) else { return Ok(None) };
    let Ok(groups) = model.groups(&GroupPattern::defaults()) else { return Ok(None) };
    if groups.is_empty() {
        return Ok(None);
    }
    let mut work = Work::new(groups.iter().map(ModelGroup::n_bytes).sum());
    let mut rows = Vec::new();
    for group in &groups {
        let matrices: Vec<_> =
            group.tensors.iter().map(|tensor| (tensor.bytes, lane_shape(tensor.shape))).collect();
        let row = Row {
            name: group.name.clone(),
            n_matrices: matrices.len(),
            costs: Costs::new(&matrices).map_err(|error| error.to_string())?,
            stored: None,
        };
        work.show(&row);
        rows.push(row);
    }
    let n_matrices: usize = rows.iter().map(|row| row.n_matrices).sum();
    let n_bytes: u64 = model.tensors().map(|tensor| tensor.bytes.len() as u64).sum();
    let plain = Plain {
        n_tensors: model.tensors().count() - n_matrices,
        n_bytes: n_bytes - work.done_bytes,
    };
    Ok(Some((rows, plain)))
}

fn lane_shape(shape: &[usize]) -> Option<LaneShape> {
    let [n_rows, n_columns] = shape else { return None };
    LaneShape::new(*n_rows as u64, *n_columns as u64).ok()
}

fn render(rows: &[Row], plain: &Plain) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "group", "weights", "format", "size", "of bf16", "bits/w", "entropy", "exponent", "codes",
        "escapes", "checksum", "df11", "compact", "lane",
    ]);
    for row in rows {
        table.add_row(row.cells());
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = table.trim_fmt();
    let total = |of: &dyn Fn(&Costs) -> Option<u64>| {
        let sum = rows.iter().map(|row| of(&row.costs)).sum::<Option<u64>>();
        sum.map_or("-".to_owned(), bytes)
    };
    text += &format!(
        "\nall of it: {} as bf16, {} as df11, {} as compact, {} as lane; {} other tensors, {}\n",
        total(&|costs| Some(costs.bf16)),
        total(&|costs| Some(costs.df11)),
        total(&|costs| Some(costs.compact)),
        total(&|costs| costs.lane),
        plain.n_tensors,
        bytes(plain.n_bytes)
    );
    text += "entropy, exponent: the fewest bits of an exponent without context, and those spent; \
             df11, compact, lane: bits/w in each format\n";
    for row in rows {
        for warning in row.stored.iter().flat_map(|stored| &stored.warnings) {
            text += &format!("warning: {}: {warning}\n", row.name);
        }
    }
    text
}
