//! What became of a cache, as SVG.

use std::fmt::Write;

/// Readable on white and on black, as are the colors of lines.
const INK: &str = "#7a7a7a";
const COLORS: [&str; 3] = ["#8a8a8a", "#d9822b", "#3d82d1"];
const DASHES: [&str; 3] = ["2 3", "7 4", "none"];
const WIDTH: f64 = 640.0;
/// Of a panel: its lines, and all of it.
const PLOT: [f64; 2] = [500.0, 130.0];
const PANEL: f64 = 190.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 56.0;

/// Numbers of some caches over tokens.
pub struct Panel<'a> {
    pub title: &'a str,
    /// Where the vertical axis ends, and how far its labels are apart. It begins at 0.
    pub end: f64,
    pub step: f64,
    /// Of each cache, its numbers in the order of tokens.
    pub lines: Vec<Vec<f64>>,
}

/// Panels one below the other. Every point says its number.
pub fn draw(title: &str, names: &[&str], tokens: &[usize], panels: &[Panel<'_>]) -> String {
    let height = TOP + PANEL * panels.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"{INK}\">\n  <title>{title}</title>\n"
    );
    let _ = writeln!(svg, "  <text x=\"{LEFT}\" y=\"16\" font-weight=\"bold\">{title}</text>");
    for (i, name) in names.iter().enumerate() {
        let x = LEFT + 170.0 * i as f64;
        let (color, dash) = (COLORS[i], DASHES[i]);
        let _ = writeln!(
            svg,
            "  <line x1=\"{x}\" y1=\"30\" x2=\"{}\" y2=\"30\" stroke=\"{color}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>\n  \
             <text x=\"{}\" y=\"34\">{name}</text>",
            x + 26.0,
            x + 32.0
        );
    }
    let last = tokens.last().copied().unwrap_or(1) as f64;
    for (i, panel) in panels.iter().enumerate() {
        let top = TOP + PANEL * i as f64 + 16.0;
        panel.draw(&mut svg, top, names, tokens, last);
    }
    svg.push_str("</svg>\n");
    svg
}

impl Panel<'_> {
    fn draw(&self, svg: &mut String, top: f64, names: &[&str], tokens: &[usize], last: f64) {
        let [width, height] = PLOT;
        let bottom = top + height;
        let x_of = |n: f64| LEFT + width * n / last;
        let y_of = |value: f64| bottom - height * (value / self.end).min(1.0);
        let _ = writeln!(svg, "  <text x=\"{LEFT}\" y=\"{}\">{}</text>", top - 6.0, self.title);
        let n_steps = (self.end / self.step).round() as usize;
        for value in (0..=n_steps).map(|i| i as f64 * self.step) {
            let y = y_of(value);
            let _ = writeln!(
                svg,
                "  <line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"{INK}\" stroke-opacity=\"0.3\"/>\n  \
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT + width,
                LEFT - 6.0,
                y + 4.0,
                short(value)
            );
        }
        for n in (0..=4).map(|i| last * f64::from(i) / 4.0) {
            let _ = writeln!(
                svg,
                "  <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{n:.0}</text>",
                x_of(n),
                bottom + 16.0
            );
        }
        let _ = writeln!(
            svg,
            "  <text x=\"{:.1}\" y=\"{:.1}\">tokens</text>",
            LEFT + width + 26.0,
            bottom + 16.0
        );
        for (i, (name, line)) in names.iter().zip(&self.lines).enumerate() {
            let (color, dash) = (COLORS[i], DASHES[i]);
            let points: Vec<_> = (tokens.iter().zip(line))
                .map(|(n, value)| format!("{:.1},{:.1}", x_of(*n as f64), y_of(*value)))
                .collect();
            let _ = writeln!(
                svg,
                "  <polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>",
                points.join(" ")
            );
            for (n, value) in tokens.iter().zip(line) {
                let (x, y) = (x_of(*n as f64), y_of(*value));
                let _ = writeln!(
                    svg,
                    "  <circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\" fill=\"{color}\"><title>{}</title></circle>",
                    point(self.title, name, *n, *value)
                );
            }
        }
    }
}

/// What a point says.
pub fn point(title: &str, name: &str, n_tokens: usize, value: f64) -> String {
    format!("{title}, {name}, {n_tokens} tokens: {}", short(value))
}

/// Three digits after the point at most, as the table has them.
pub fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
