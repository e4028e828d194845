//! The picture of what was measured: percent of the copy limit, peers beside it, as SVG.

use std::fmt::Write;

use super::row::{Row, State};

/// Of 12 pixels, in whatever sans-serif font there is; names are given room by this estimate.
const LETTER_WIDTH: usize = 8;
const MARGIN: usize = 10;
const LINE: usize = 18;
const BAR: usize = 12;
const SCALE_WIDTH: usize = 420;
/// Readable on white and on black.
const INK: &str = "#7a7a7a";
const OURS: &str = "#3d82d1";
const PEERS: &str = "#a0a0a0";

/// The kernel's bar, or a peer's.
struct Bar<'a> {
    name: &'a str,
    percent: f64,
    color: &'static str,
}

/// A kernel at a shape on a device.
struct Group<'a> {
    title: String,
    bars: Vec<Bar<'a>>,
}

impl<'a> Group<'a> {
    /// None where nothing was measured, or what was measured is not worth showing.
    fn read(row: &Row<'a>) -> Option<Self> {
        if matches!(row.state, State::Failed | State::Gone) {
            return None;
        }
        let limit = row.figures()?.percent_of_limit?;
        let mut title = format!("{}, {}, {}", row.kernel, row.shape?, row.device()?);
        if row.label() != State::Proven.name() {
            let _ = write!(title, " ({})", row.label());
        }
        let mut bars = vec![Bar { name: "lacuna", percent: limit, color: OURS }];
        bars.extend(
            row.ratios().into_iter().filter_map(|(name, ratio)| {
                Some(Bar { name, percent: limit / ratio?, color: PEERS })
            }),
        );
        Some(Self { title, bars })
    }
}

pub(super) fn draw(rows: &[Row<'_>]) -> String {
    let groups: Vec<_> = rows.iter().filter_map(Group::read).collect();
    if groups.is_empty() {
        let text = "Percent of the copy limit: nothing is measured on a GPU yet.";
        let mut picture = Picture::default();
        picture.write(MARGIN as f64, LINE, "start", text);
        return picture.finish(2 * MARGIN + text.len() * LETTER_WIDTH, LINE + MARGIN);
    }
    let bars = || groups.iter().flat_map(|group| &group.bars);
    let names = bars().map(|bar| width(bar.name)).max().unwrap_or(0);
    let titles = groups.iter().map(|group| width(&group.title)).max().unwrap_or(0);
    let left = MARGIN + names + MARGIN;
    let most = bars().map(|bar| bar.percent).fold(100.0, f64::max);
    let mut step = 25.0;
    while most > 8.0 * step {
        step *= 2.0;
    }
    let end = (most / step).ceil() * step;
    let place = |percent: f64| left as f64 + percent * SCALE_WIDTH as f64 / end;
    let n_lines: usize = groups.iter().map(|group| 1 + group.bars.len()).sum();
    let height = (n_lines + 1) * LINE + (groups.len() + 1) * MARGIN;

    let mut picture = Picture::default();
    let limit = place(100.0);
    let label = "100 % (copy limit)";
    picture.line(limit, LINE + 4, height - MARGIN, "0.9");
    picture.write(limit, LINE - 2, "middle", label);
    let mut percent = 0.0;
    while percent <= end {
        let x = place(percent);
        // The limit has its own line, and its label needs room.
        if percent != 100.0 {
            picture.line(x, LINE + 4, height - MARGIN, "0.3");
        }
        if (x - limit).abs() > width(label) as f64 / 2.0 + MARGIN as f64 {
            picture.write(x, LINE - 2, "middle", &format!("{percent} %"));
        }
        percent += step;
    }
    let mut y = LINE + MARGIN;
    for group in &groups {
        y += LINE;
        picture.write(MARGIN as f64, y - 5, "start", &group.title);
        for bar in &group.bars {
            y += LINE;
            picture.write((left - MARGIN) as f64, y - 5, "end", bar.name);
            picture.bar(left, y - BAR - 3, place(bar.percent) - left as f64, bar.color);
            picture.write(
                place(bar.percent) + 4.0,
                y - 5,
                "start",
                &format!("{:.1} %", bar.percent),
            );
        }
        y += MARGIN;
    }
    let scale = left + SCALE_WIDTH + width(label);
    picture.finish(scale.max(titles + MARGIN) + MARGIN, height)
}

fn width(text: &str) -> usize {
    text.chars().count() * LETTER_WIDTH
}

/// The elements so far.
#[derive(Default)]
struct Picture(String);

impl Picture {
    fn write(&mut self, x: f64, y: usize, anchor: &str, text: &str) {
        let text = escape(text);
        let _ =
            writeln!(self.0, r#"  <text x="{x:.1}" y="{y}" text-anchor="{anchor}">{text}</text>"#);
    }

    fn bar(&mut self, x: usize, y: usize, width: f64, color: &str) {
        let _ = writeln!(
            self.0,
            r#"  <rect x="{x}" y="{y}" width="{width:.1}" height="{BAR}" fill="{color}"/>"#
        );
    }

    fn line(&mut self, x: f64, top: usize, bottom: usize, opacity: &str) {
        let _ = writeln!(
            self.0,
            r#"  <line x1="{x:.1}" y1="{top}" x2="{x:.1}" y2="{bottom}" stroke="{INK}" stroke-opacity="{opacity}"/>"#
        );
    }

    fn finish(self, width: usize, height: usize) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\" font-family=\"sans-serif\" \
             font-size=\"12\" fill=\"{INK}\">\n  \
             <title>Percent of the copy limit</title>\n{}</svg>\n",
            self.0
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
