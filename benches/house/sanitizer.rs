//! compute-sanitizer, once per kernel and tool, where it is at hand.

use std::process::Command;

use super::report::{Outcome, Row};

const TOOL: &str = "compute-sanitizer";
/// Each with what it ends with where it found nothing.
const CHECKERS: [(&str, &str); 4] = [
    ("memcheck", "ERROR SUMMARY: 0 errors"),
    ("racecheck", "RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)"),
    ("initcheck", "ERROR SUMMARY: 0 errors"),
    ("synccheck", "ERROR SUMMARY: 0 errors"),
];

/// What `kernels once` says when the kernel ran and its bits agree.
pub(super) fn launched(kernel: &str) -> String {
    format!("launched {kernel}: bits agree")
}

/// Adds what each tool says of the row's kernel.
pub(super) fn watch(row: &mut Row) {
    for (tool, clean) in CHECKERS {
        let outcome = watch_with(row.kernel, tool, clean);
        row.add(format!("{TOOL} {tool}"), outcome);
    }
}

/// One launch of a kernel under one tool. That the tool ran, and the kernel under it, is asked for too:
/// a tool that watched nothing finds nothing.
fn watch_with(kernel: &str, tool: &str, clean: &str) -> Outcome {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return Outcome::Skipped(format!("where is this program? {error}")),
    };
    let output = Command::new(TOOL)
        .args(["--tool", tool, "--error-exitcode", "9"])
        .arg(program)
        .args(["kernels", "once", kernel])
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return Outcome::Skipped(format!("{TOOL} does not start: {error}")),
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let asked = ["COMPUTE-SANITIZER", &launched(kernel), clean];
    if output.status.success() && asked.iter().all(|line| text.contains(line)) {
        return Outcome::Pass;
    }
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("=========")).collect();
    let found = if lines.is_empty() { text.trim().to_owned() } else { lines.join("\n") };
    let found: String = found.chars().take(2_000).collect();
    Outcome::Fail(format!("{}: {found}", output.status))
}
