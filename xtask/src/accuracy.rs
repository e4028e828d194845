//! How much accuracy formats of a KV cache cost: on synthetic rows, and on those of a trained model.

mod data;
mod kernel;
mod measure;
mod minilm;
mod own;
mod schemes;
mod words;

use std::fmt::Write as _;

use self::data::{EFFECTIVE_TOKENS, Kind, N_HEADS, N_QUERIES, N_TOKENS, Set};
use self::measure::Row;
use crate::{Result, root};

const TABLES: &str = "xtask/accuracy.md";
const REMEDY: &str = "cargo accuracy --write";

/// What was asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// One part
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// Write xtask/accuracy.md
    #[arg(long, conflicts_with = "only")]
    write: bool,
    /// Change nothing; fail where xtask/accuracy.md differs, and name the command to run
    #[arg(long, conflicts_with = "write")]
    check: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Rows from a seed; nothing is downloaded
    Synthetic,
    /// Rows of a trained model on prose, both from the package index
    Minilm,
}

/// Prints tables, writes them or compares them.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut sections = vec![preamble()];
    for part in [Part::Synthetic, Part::Minilm] {
        if options.only.is_none_or(|only| only == part) {
            sections.push(tables(part)?);
        }
    }
    let path = root().join(TABLES);
    if options.write {
        return std::fs::write(&path, sections.join("\n"))
            .map(|()| println!("wrote {TABLES}"))
            .map_err(|error| format!("{TABLES}: {error}"));
    }
    if options.check {
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        let whole = options.only.is_some() || committed == sections.join("\n");
        if !whole || !sections.iter().all(|section| committed.contains(section)) {
            return Err(format!("{TABLES} is stale; run `{REMEDY}` and commit the result"));
        }
        println!("fresh {TABLES}");
        return Ok(());
    }
    print!("{}", sections.join("\n"));
    Ok(())
}

fn preamble() -> String {
    format!(
        "# Accuracy of KV cache formats\n\
         \n\
         Made by `{REMEDY}`; xtask/src/accuracy/schemes.rs says what each format is. Keys, values and\n\
         queries are bf16; softmax and sums are f64.\n\
         \n\
         - bits: an element of keys and one of values takes, scales and the like included. Every token is\n\
         \x20 quantised, those too that KIVI and tiered pages keep as numbers until a group or a page is full.\n\
         - K, V: root mean square of the error over that of the elements.\n\
         - logits: root mean square of the error of `q . k / sqrt(d)`.\n\
         - output: root mean square of the error of attention's output over that of the output, with keys\n\
         \x20 alone, values alone and both through the format; all are means over heads, layers and\n\
         \x20 sequences.\n\
         - worst: the largest output error of a head, both through the format.\n\
         \n\
         Below a table is where tiered pages do not have the lowest output error: of each format of theirs, those\n\
         of others that take no more bits, keys and values together, and lose less.\n\
         \n\
         \"60 % 4, 40 % 2\" has the 60 % of tokens that probe queries attend to most at 4 bits.\n\
         \n\
         Where heads are stored as 64 elements or 128, a second table is of `attend_tiered` over our pages, by the\n\
         reference that its kernel is equal to, with Hopper's tensor cores. It is of every second head, and of {}\n\
         queries of each: what says every rounding is slow. Tokens that fill no page of their tier wait as bf16.\n\
         Errors are of attention's output, as above:\n\
         \n\
         - format: f64 over what is stored, against f64 over keys and values as they were.\n\
         - arithmetic: the kernel, against f64 over what is stored; worst, the largest of a head.\n\
         - total: the kernel, against f64 over keys and values as they were.\n",
        kernel::N_QUERIES,
    )
}

fn tables(part: Part) -> Result<String> {
    let (text, sets) = match part {
        Part::Synthetic => (
            format!(
                "## Synthetic\n\n\
                 {N_TOKENS} tokens, {N_HEADS} heads, {N_QUERIES} queries a head, scaled for a mean \
                 entropy of ln {EFFECTIVE_TOKENS}; `synthetic` in xtask/src/accuracy/data.rs says what \
                 each kind is.\n"
            ),
            Kind::ALL
                .into_iter()
                .flat_map(|kind| [64, 128].map(|d| data::synthetic(kind, d)))
                .collect(),
        ),
        Part::Minilm => (
            format!(
                "## A trained model\n\n\
                 all-MiniLM-L6-v2 (6 layers, 12 heads of 32, every query sees every key) on {} windows \
                 of 512 tokens of the Jargon File's appendices; one query in eight is measured, one in \
                 eight is a probe.\n",
                minilm::N_WINDOWS
            ),
            minilm::run()?,
        ),
    };
    let schemes = schemes::all();
    let table = |set: &Set| {
        let (rows, entropy) = measure::measure(set, &schemes);
        table(&set.name, &rows, entropy) + &losses(&rows) + &kernel_table(&kernel::measure(set))
    };
    Ok([text].into_iter().chain(sets.iter().map(table)).collect::<Vec<_>>().join("\n"))
}

fn table(name: &str, rows: &[Row], entropy: f64) -> String {
    let mut text =
        format!("### {name}\n\nMean entropy of a query's weights: {entropy:.2} nats.\n\n");
    text +=
        "| format | bits K | bits V | K | V | logits | output, K | output, V | output | worst |\n";
    text += "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    for Row { name, bits: [keys, values], mean, worst } in rows {
        let _ = write!(text, "| {name} | {keys:.3} | {values:.3} ");
        let errors = [mean.keys, mean.values, mean.scores];
        let outputs = [mean.output_of_keys, mean.output_of_values, mean.output, *worst];
        for error in errors.into_iter().chain(outputs) {
            let _ = write!(text, "| {error:.4} ");
        }
        text += "|\n";
    }
    text
}

/// Which of others' formats lose less than one of ours at no more bits.
fn losses(rows: &[Row]) -> String {
    let mut text = String::new();
    let is_ours = |row: &&Row| row.name.starts_with("tiered pages");
    for ours in rows.iter().filter(is_ours) {
        let n_bits = |row: &Row| row.bits[0] + row.bits[1];
        let is_better = |row: &&Row| {
            !is_ours(row) && n_bits(row) <= n_bits(ours) && row.mean.output < ours.mean.output
        };
        let better: Vec<_> = rows
            .iter()
            .filter(is_better)
            .map(|row| format!("{} ({:.4})", row.name, row.mean.output))
            .collect();
        if !better.is_empty() {
            let _ = writeln!(
                text,
                "\nNot the lowest: {} ({:.4}); less at no more bits: {}.",
                ours.name,
                ours.mean.output,
                better.join("; ")
            );
        }
    }
    if text.is_empty() {
        text += "\nNo format that takes no more bits loses less than tiered pages.\n";
    }
    text
}

/// Nothing of heads that `attend_tiered` does not take.
fn kernel_table(rows: &[kernel::Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text =
        "\n| `attend_tiered` over | format | arithmetic | total | worst arithmetic |\n".to_owned();
    text += "|---|--:|--:|--:|--:|\n";
    for kernel::Row { name, format, arithmetic, total, worst } in rows {
        let _ =
            writeln!(text, "| {name} | {format:.5} | {arithmetic:.5} | {total:.5} | {worst:.5} |");
    }
    text
}

/// Logits to weights; gives their entropy in nats.
fn softmax(weights: &mut [f64]) -> f64 {
    let largest = weights.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
    let (mut sum, mut moment) = (0.0, 0.0);
    for weight in &mut *weights {
        let logit = *weight - largest;
        *weight = libm::exp(logit);
        sum += *weight;
        moment += *weight * logit;
    }
    weights.iter_mut().for_each(|weight| *weight /= sum);
    libm::log(sum) - moment / sum
}

#[cfg(test)]
mod tests {
    use super::measure::Errors;
    use super::*;

    #[test]
    fn where_ours_lose_more_it_is_said() {
        let row = |name: &str, bits, output| {
            let mean = Errors { output, ..Errors::default() };
            Row { name: name.to_owned(), bits, mean, worst: 0.0 }
        };
        let mut rows = vec![
            row("a", [4.5, 4.0], 0.25),
            row("b", [4.5, 4.5], 0.125),
            row("c", [2.0, 2.0], 0.5),
            row("tiered pages, 4", [4.25, 4.25], 0.375),
            row("tiered pages, 2", [2.0, 2.0], 0.5),
        ];
        let said =
            "\nNot the lowest: tiered pages, 4 (0.3750); less at no more bits: a (0.2500).\n";
        assert_eq!(losses(&rows), said);
        rows.remove(0);
        let said = "\nNo format that takes no more bits loses less than tiered pages.\n";
        assert_eq!(losses(&rows), said);
    }
}
