//! What an interrupt leaves: nothing.

use std::path::{Path, PathBuf};

use lacuna::huffman::temporary_prefix;

/// The status of a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// From here on, an interrupt removes what is not finished beside `output`, and ends the process.
pub(crate) fn leave_nothing_beside(output: &Path) -> Result<(), String> {
    let folder = match output.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    ctrlc::set_handler(move || {
        // The work goes on meanwhile, and may add a file to a directory that is being removed.
        while remove_unfinished(&folder) > 0 {}
        eprintln!("interrupted: what was not finished is removed");
        std::process::exit(INTERRUPTED);
    })
    .map_err(|error| format!("the handler of interrupts: {error}"))
}

/// Removes what it can; says how many entries there were that it could not.
fn remove_unfinished(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let prefix = temporary_prefix();
    let is_ours =
        |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix));
    let ours = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_ours);
    ours.filter(|path| match path.is_dir() {
        true => std::fs::remove_dir_all(path).is_err(),
        false => std::fs::remove_file(path).is_err(),
    })
    .count()
}
