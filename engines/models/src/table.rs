//! What methods cost, as a table: perplexity of held text and needles that are found.

use std::fmt::Write as _;

use candle_core::Device;

use crate::checkpoint::{Format, Model};
use crate::fetch::{self, sha256};
use crate::llama::Llama;
use crate::measure::{Held, Hidden};
use crate::methods::{MethodKind, PageBounds, Tiers, TokenSelect};
use crate::needles::{PROSE, needles};
use crate::text::Text;
use crate::weights::Weights;
use crate::{Error, Result};

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Tokens of the prose that are read before the first that is measured.
    pub n_context: usize,
    /// Tokens that are measured.
    pub n_measured: usize,
    /// Questions.
    pub n_needles: usize,
    /// Tokens of the prose that a needle is hidden in, at most.
    pub n_haystack: usize,
}

/// The table's.
pub const SIZES: Sizes = Sizes { n_context: 1024, n_measured: 256, n_needles: 8, n_haystack: 1024 };

/// A row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The method.
    pub method: String,
    /// Bytes of keys and values that a step reads, of full attention's.
    pub share: f64,
    /// Of the tokens that are measured.
    pub perplexity: f64,
    /// Answers with the right number.
    pub n_found: usize,
}

const fn tiers(shares: [f64; 4]) -> MethodKind {
    MethodKind::Tiered(Tiers { n_sinks: 4, n_window: 64, n_between: 64, shares })
}

/// The methods of the table: full attention first.
pub const METHODS: [MethodKind; 8] = [
    MethodKind::Full,
    MethodKind::TokenSelect(TokenSelect { n_init: 16, n_local: 64, k: 176 }),
    MethodKind::TokenSelect(TokenSelect { n_init: 16, n_local: 64, k: 48 }),
    MethodKind::PageBounds(PageBounds { n_pages: 16, n_dense: 2 }),
    MethodKind::PageBounds(PageBounds { n_pages: 8, n_dense: 2 }),
    tiers([0.0, 1.0, 0.0, 0.0]),
    tiers([0.0, 0.0, 1.0, 0.0]),
    tiers([0.0, 0.0, 0.5, 0.5]),
];

/// Measures methods, and says how far it is.
///
/// # Errors
/// Those of the model, of its checkpoint and of methods.
pub fn measure(
    methods: &[MethodKind],
    sizes: &Sizes,
    device: &Device,
    progress: &dyn Fn(&str),
) -> Result<Vec<Row>> {
    let folder = Model::SmolLm2.checkpoint(Format::Df11)?;
    let model = Llama::load(&Weights::open(&folder, device)?)?;
    let text = Text::open(&Model::SmolLm2.tokenizer()?)?;
    let Sizes { n_context, n_measured, n_needles, n_haystack } = *sizes;
    let tokens = text.encode(PROSE)?;
    let tokens = tokens
        .get(..n_context + n_measured)
        .ok_or_else(|| Error::Model(format!("the prose has {} tokens, too few", tokens.len())))?;
    let held = Held::read(&model, tokens, n_measured)?;
    let mut rows = Vec::new();
    for method in methods {
        let (perplexity, share) = held.perplexity(&model, method)?;
        progress(&format!("{method}: perplexity {perplexity:.3}"));
        rows.push(Row { method: method.to_string(), share, perplexity, n_found: 0 });
    }
    drop(held);
    for needle in needles(&text, n_needles, n_haystack)? {
        let hidden = Hidden::read(&model, &needle)?;
        for (row, method) in rows.iter_mut().zip(methods) {
            let answer = hidden.answer(&model, &text, method)?;
            row.n_found += usize::from(hidden.is_right(&answer));
            progress(&format!(
                "{method}: {:?} is asked for, and the answer is {answer:?}",
                needle.answer
            ));
        }
    }
    Ok(rows)
}

/// The table, as it is committed: what is deterministic, and under it when and where it was made.
///
/// # Errors
/// [`Error::Io`] where the model's file cannot be read.
pub fn render(rows: &[Row], sizes: &Sizes, made: &str) -> Result<String> {
    let path = Model::SmolLm2.source()?;
    let model = sha256(&std::fs::read(&path).map_err(Error::io(&path))?);
    let wheel = fetch::SMOLLM2;
    let Sizes { n_context, n_measured, n_needles, n_haystack } = *sizes;
    let mut table = String::from(
        "# SmolLM2-135M-Instruct under lacuna's ways to attend\n\n\
        Made by `cargo run -p lacuna-models --release -- table` in `engines/`; `-- table --check` holds a new run against it: bytes as they are, \
        perplexity to 1 % and needles to one, since products of matrices are summed in another order on another CPU.\n\n\
        | method | bytes of the cache that a step reads | perplexity | needles found |\n|---|---|---|---|\n",
    );
    for Row { method, share, perplexity, n_found } in rows {
        let _ = writeln!(
            table,
            "| {method} | {:.1} % | {perplexity:.3} | {n_found} of {n_needles} |",
            100.0 * share
        );
    }
    let _ = write!(
        table,
        "\nThe model is `{}` {} from PyPI (Apache-2.0), Q4_1 and Q8_0, dequantised and rounded to bf16 once, in DF11; its GGUF file's SHA-256 is `{model}`. \
        Perplexity is that of {n_measured} tokens after {n_context} others of `text/held.txt` (SHA-256 `{}`), which was written in November 2026, after the \
        model was trained. A needle is one of {n_needles} facts at other depths of that text, {n_haystack} tokens of it at most, and a question after it; the answer of up to 24 tokens \
        must have the number. What comes before the measured tokens, or before the question, is read by plain attention; all that follows, the question too, by the \
        method, token by token. Bytes are those of all layers after the last measured token, with what is read to choose tokens, against all keys and values in bf16. What is selected, \
        and what pages of codes hold, is what lacuna's references say, as its kernels do to the bit; attention over it is `lacuna-candle`'s, on the CPU by sums of f32.\n\n{made}\n",
        wheel.package,
        wheel.version,
        sha256(PROSE.as_bytes()),
    );
    Ok(table)
}

/// What of a committed table differs from a new run.
pub fn differences(committed: &str, rows: &[Row]) -> Vec<String> {
    let cells: Vec<Vec<&str>> = committed
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let mut differences = Vec::new();
    if cells.len() != rows.len() {
        differences.push(format!("{} rows are committed, and {} are new", cells.len(), rows.len()));
    }
    for (cells, row) in cells.iter().zip(rows) {
        let share = format!("{:.1} %", 100.0 * row.share);
        let is_near_found = |text: &str| {
            let old = text.split(' ').next().and_then(|old| old.parse::<usize>().ok());
            old.is_some_and(|old| old.abs_diff(row.n_found) <= 1)
        };
        let is_near = |text: &str| {
            text.parse::<f64>().is_ok_and(|old| (row.perplexity / old - 1.0).abs() < 0.01)
        };
        let is_same = matches!(cells[..], [method, bytes, perplexity, needles]
            if method == row.method
                && bytes == share
                && is_near(perplexity)
                && is_near_found(needles));
        if !is_same {
            differences.push(format!("{cells:?} is committed, and {row:?} is new"));
        }
    }
    differences
}
