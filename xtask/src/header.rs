//! include/lacuna.h, by a pinned cbindgen.

use std::path::{Path, PathBuf};

use crate::{Generated, Result, root};

pub(crate) const PATH: &str = "include/lacuna.h";
const SOURCES: &str = "src/capi";
/// These first, in this order: what all others use.
const FIRST: [&str; 6] = ["status.rs", "abi.rs", "dtype.rs", "view.rs", "device.rs", "kv.rs"];

pub(crate) fn generate() -> Result<Generated> {
    let sources = sources()?;
    let mut config = cbindgen::Config::from_file(root().join("cbindgen.toml"))?;
    config.header = Some(include_str!("header.txt").trim_end().to_owned());
    config.after_includes = Some(macros()?);
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in sources {
        builder = builder.with_src(source);
    }
    let bindings = builder.generate().map_err(|error| format!("cbindgen: {error}"))?;
    let mut content = Vec::new();
    bindings.write(&mut content);
    let content = String::from_utf8(content).map_err(|error| error.to_string())?;
    Ok(Generated { path: PATH, content })
}

/// Every file of the interface: what is common, then the rooms.
pub(crate) fn sources() -> Result<Vec<PathBuf>> {
    let folder = root().join(SOURCES);
    let mut sources: Vec<_> = FIRST.iter().map(|name| folder.join(name)).collect();
    let mut rest = Vec::new();
    find(&folder, &mut rest)?;
    rest.retain(|path| !sources.contains(path) && path.file_name().is_some_and(|n| n != "mod.rs"));
    rest.sort();
    sources.extend(rest);
    Ok(sources)
}

fn find(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let error = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if path.is_dir() {
            find(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// The version of the crate.
pub(crate) fn version() -> Result<String> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).map_err(|e| e.to_string())?;
    let version =
        manifest.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    version.map(str::to_owned).ok_or_else(|| "Cargo.toml has no version".to_owned())
}

/// The functions that the committed header declares, those of the executor among them or not.
pub(crate) fn functions(has_simt: bool) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root().join(PATH)).map_err(|e| format!("{PATH}: {e}"))?;
    let mut functions = Vec::new();
    let mut is_simt = false;
    for line in text.lines() {
        is_simt = (is_simt || line == "#if defined(LACUNA_SIMT)") && line != "#endif";
        // A declaration begins at the line's start, and has the only parenthesis that follows a name of ours there.
        if line.starts_with(['/', '#', ' ', '}']) || (is_simt && !has_simt) {
            continue;
        }
        let name = line.split_once('(').and_then(|(before, _)| before.rsplit([' ', '*']).next());
        functions.extend(name.filter(|name| name.starts_with("lacuna_")).map(str::to_owned));
    }
    Ok(functions)
}

/// Versions, and what makes a struct's header.
fn macros() -> Result<String> {
    let version = version()?;
    let parts: Vec<_> = version.split('.').collect();
    let [major, minor, patch] = parts[..] else {
        return Err(format!("version {version} has not three parts"));
    };
    Ok(format!(
        "\n#define LACUNA_VERSION \"{version}\"\n\
         #define LACUNA_VERSION_MAJOR {major}\n\
         #define LACUNA_VERSION_MINOR {minor}\n\
         #define LACUNA_VERSION_PATCH {patch}\n\n\
         // What a struct that has a `header` begins with: `lacuna_topk_rows_shape shape = {{LACUNA_HEADER(lacuna_topk_rows_shape)}};`\n\
         // and all fields that are not named are zeros.\n\
         #define LACUNA_HEADER(type) {{sizeof(type), LACUNA_ABI_VERSION}}\n"
    ))
}
