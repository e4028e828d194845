//! The README's table of what is proven and measured on GPUs.

use std::fmt::Write;

use super::row::{Row, State, percent, time};
use super::{PLOT, REMEDY};
use crate::Result;

const BEGIN: &str = "<!-- ledger -->";
const END: &str = "<!-- /ledger -->";
const LEGEND: &str = "\
The copy limit is the time of a copy of the least bytes that any kernel could move. \
Where a peer's time / ours is above 1, the peer takes longer.";

/// The table: a row per kernel, shape and device; of a kernel that no GPU has run, one row.
pub(super) fn render(rows: &[Row<'_>]) -> String {
    // What is gone is the maintainers' business.
    let rows: Vec<_> = rows.iter().filter(|row| row.state != State::Gone).collect();
    let has_run =
        |kernel: &str| rows.iter().any(|row| row.kernel == kernel && row.device().is_some());
    let is_empty = rows.iter().all(|row| row.device().is_none());
    let mut text = format!("<!-- Made by `{REMEDY}`. -->\n\n");
    text += if is_empty {
        "| kernel | GPU |\n|---|---|\n"
    } else {
        "| kernel | shape | GPU | device | of the copy limit | time | peers' time / ours |\n\
         |---|---|---|---|---|---|---|\n"
    };
    let mut last = "";
    for row in &rows {
        if has_run(row.kernel) {
            let _ = writeln!(text, "| {} |", to_cells(row).join(" | "));
        } else if row.kernel != last {
            let (shape, rest) = if is_empty { ("", "") } else { (" all |", " - | - | - | - |") };
            let kernel = row.kernel;
            let _ =
                writeln!(text, "| `{kernel}` |{shape} **unproven**: not yet run on a GPU |{rest}");
        }
        last = row.kernel;
    }
    if rows.iter().any(|row| row.figures().is_some()) {
        let _ = writeln!(text, "\n{LEGEND}\n\n![Percent of the copy limit]({PLOT})");
    }
    text + "\n"
}

fn to_cells(row: &Row<'_>) -> [String; 7] {
    // The speed of wrong bits is worth nothing.
    let figures = row.figures().filter(|_| row.state != State::Failed);
    let peers = row.list_ratios();
    let has_peers = figures.is_some() && !peers.is_empty();
    let label = row.label();
    [
        format!("`{}`", row.kernel),
        escape(row.shape.unwrap_or("-")),
        if row.state == State::Proven { label } else { format!("**{label}**") },
        escape(row.device().unwrap_or("-")),
        percent(figures),
        time(figures),
        if has_peers { escape(&peers) } else { "-".to_owned() },
    ]
}

/// Puts the table between the markers.
pub(super) fn splice(readme: &str, table: &str) -> Result<String> {
    for marker in [BEGIN, END] {
        let n_found = readme.matches(marker).count();
        if n_found != 1 {
            return Err(format!("{marker} must stand there once, and does {n_found} times"));
        }
    }
    let parts = readme.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.ok_or_else(|| format!("{END} stands before {BEGIN}"))?;
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('|', "\\|")
}
