//! What a file may ask for: however great the numbers in it are, memory is a few times its own bytes.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::f16;
use lacuna::huffman::{Checkpoint, Model};
use lacuna::quant::import::{
    ImportedPages, Int4PerToken, Int8PerToken, KiviKeys, KiviValues, RowsShape, ZeroForm,
    ZipCacheKeys, ZipCacheValues,
};
use lacuna::quant::{Part, Tail, Tier};

/// The system's, counting what each thread has.
struct Counting;

thread_local! {
    static IN_USE: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

fn count(more: usize, less: usize) {
    // What one thread freed may be another's.
    let now = IN_USE.get().saturating_add(more);
    MOST.set(MOST.get().max(now));
    IN_USE.set(now.saturating_sub(less));
}

// SAFETY: every call is the system's, with its own arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size, layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a parser of anything takes, whatever its input.
const CONSTANT: usize = 160 << 10;

/// The most bytes that `run` had allocated at once on this thread, which is all that opening takes, and
/// what it gave.
fn peak_of<T>(run: impl FnOnce() -> T) -> (usize, T) {
    let before = IN_USE.get();
    MOST.set(before);
    let result = run();
    (MOST.get() - before, result)
}

/// Numbers that sizes are not, or should not be.
const NUMBERS: [u64; 16] = [
    0,
    1,
    7,
    255,
    65_536,
    100_000_000,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 40,
    1 << 46,
    1 << 47,
    1 << 53,
    1 << 63,
    u64::MAX,
];

/// A file's length of header, its header and so many bytes of data.
fn safetensors(n_header: u64, header: &str, n_data: usize) -> Vec<u8> {
    [&n_header.to_le_bytes()[..], header.as_bytes(), &vec![0; n_data]].concat()
}

fn open_everything(bytes: &[u8]) {
    let Ok(checkpoint) = Checkpoint::from_bytes(bytes.to_vec()) else { return };
    for idx in 0..checkpoint.entries().len() {
        let _ = checkpoint.stored(idx);
    }
}

/// So many times a header's bytes: its text, its tensors by name and by place, once more as the groups'.
const TIMES: usize = 40;

#[track_caller]
fn assert_bounded(bytes: &[u8], what: &str) {
    let (peak, ()) = peak_of(|| open_everything(bytes));
    let most = TIMES * bytes.len() + CONSTANT;
    assert!(peak <= most, "{what}: {peak} bytes for a file of {}", bytes.len());
}

#[test]
fn a_few_bytes_ask_for_few() {
    for number in NUMBERS {
        for header in ["", "{}", "[]", r#"{"a":{}}"#] {
            assert_bounded(&safetensors(number, header, 0), header);
            assert_bounded(&safetensors(header.len() as u64, header, 3), header);
        }
        for suffix in ["encoded_exponent", "granule_bits", "lane_header", ""] {
            for shape in [format!("[{number}]"), format!("[{number},{number}]"), "[0]".to_owned()] {
                let header = format!(
                    r#"{{"a.{suffix}":{{"dtype":"U8","shape":{shape},"data_offsets":[0,{number}]}}}}"#
                );
                assert_bounded(&safetensors(header.len() as u64, &header, 8), &header);
            }
        }
    }
    // 43 bytes, the least that name a tensor of a group.
    let header = r#"{"lane_header":{"dtype":"U8","shape"}}"#;
    assert_bounded(&safetensors(header.len() as u64, &header[..35], 0), header);
}

/// The files of fuzzing's corpus: one small group of each format.
fn small_files() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/reader");
    ["lm_head.safetensors", "lm_head-compact.safetensors", "lm_head-lane.safetensors"]
        .map(|name| folder.join(name))
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

/// Every number of every tensor, as a word of two, four and eight bytes: those that say sizes are among them.
#[test]
fn no_number_of_a_groups_tensors_asks_for_more() {
    for (path, bytes) in small_files() {
        let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_bounded(&bytes, "as it is");
        for at in (8 + n_header..bytes.len()).step_by(2) {
            for number in NUMBERS {
                for width in [2, 4, 8] {
                    let mut bytes = bytes.clone();
                    let end = (at + width).min(bytes.len());
                    bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
                    assert_bounded(&bytes, &format!("{} at {at}", path.display()));
                }
            }
        }
    }
}

/// Every number of the header.
#[test]
fn no_number_of_a_header_asks_for_more() {
    for (_, bytes) in small_files() {
        let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = std::str::from_utf8(&bytes[8..8 + n_header]).unwrap();
        let data = &bytes[8 + n_header..];
        let is_digit = |at: usize| header.as_bytes()[at].is_ascii_digit();
        for start in (1..header.len()).filter(|at| is_digit(*at) && !is_digit(at - 1)) {
            let end = (start..header.len()).find(|at| !is_digit(*at)).unwrap();
            for number in NUMBERS {
                let header = format!("{}{number}{}", &header[..start], &header[end..]);
                let head = safetensors(header.len() as u64, &header, 0);
                assert_bounded(&[&head[..], data].concat(), &header);
            }
        }
    }
}

/// More than 100 MB is no header, and what is less is not copied before it is read.
#[test]
fn a_header_is_as_long_as_its_file_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    for (n_header, n_file) in [(100_000_001, 200_000_000), (99_999_999, 200_000_000)] {
        let mut file = File::create(&path).unwrap();
        file.write_all(&u64::to_le_bytes(n_header)).unwrap();
        // Zeros that nobody wrote.
        file.set_len(n_file).unwrap();
        let (peak, opened) = peak_of(|| Checkpoint::open(&path));
        assert!(opened.is_err());
        assert!(peak < CONSTANT, "{peak} bytes");
    }
    let mut file = File::create(&path).unwrap();
    file.write_all(b"\x02\0\0\0\0\0\0\0{}").unwrap();
    file.seek(SeekFrom::Start(1 << 33)).unwrap();
    file.write_all(b" ").unwrap();
    let (peak, opened) = peak_of(|| Checkpoint::open(&path));
    assert!(opened.is_err());
    assert!(peak < CONSTANT, "{peak} bytes of a file of 8 GiB");
}

#[test]
fn many_names_and_deep_json_cost_what_they_are_long() {
    let mut header = String::from("{");
    for idx in 0..20_000 {
        let comma = if idx == 0 { "" } else { "," };
        header += &format!(
            r#"{comma}"{idx}.lane_header":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#
        );
    }
    header += "}";
    assert_bounded(&safetensors(header.len() as u64, &header, 0), "many names");
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let deep = open.repeat(200_000) + &close.repeat(200_000);
        assert_bounded(&safetensors(deep.len() as u64, &deep, 0), "a deep header");
        let facts = deep.replace('"', "\\\"");
        let header = format!(r#"{{"__metadata__":{{"lacuna.group.a":"{facts}"}}}}"#);
        assert_bounded(&safetensors(header.len() as u64, &header, 0), "deep facts");
        in_config(&deep, |opened, peak| {
            assert!(opened.is_err());
            assert!(peak < TIMES * deep.len() + CONSTANT, "{peak} bytes");
        });
    }
}

/// Opens a directory with a sound group and this `config.json`.
fn in_config(config: &str, check: impl FnOnce(lacuna::Result<Checkpoint>, usize)) {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = small_files().swap_remove(0);
    std::fs::copy(path, folder.path().join("a.safetensors")).unwrap();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let (peak, opened) = peak_of(|| Checkpoint::open(folder.path()));
    check(opened, peak);
}

fn config_of(patterns: &str) -> String {
    format!(
        r#"{{"dfloat11_config":{{"version":"0.5.0","threads_per_block":[512],"bytes_per_thread":8,
            "pattern_dict":{{{patterns}}}}}}}"#
    )
}

/// Regular expressions are programs, whose size their text does not say.
#[test]
fn patterns_of_a_config_are_few_and_small() {
    let patterns: Vec<_> = (0..3000).map(|idx| format!(r#""a{idx}\\w{{20}}":[]"#)).collect();
    let config = config_of(&patterns.join(","));
    in_config(&config, |opened, peak| {
        let error = opened.unwrap_err().to_string();
        assert!(error.ends_with("pattern_dict has 3000 patterns, more than 256"), "{error}");
        assert!(peak < TIMES * config.len() + CONSTANT, "{peak} bytes");
    });
    in_config(&config_of(r#""\\w{200}":[]"#), |opened, peak| {
        let error = opened.unwrap_err().to_string();
        assert!(error.contains("exceeds size limit"), "{error}");
        assert!(peak < 4 << 20, "{peak} bytes");
    });
    let patterns: Vec<_> = (0..256).map(|idx| format!(r#""a{idx}\\w{{3}}":[]"#)).collect();
    in_config(&config_of(&patterns.join(",")), |opened, peak| {
        assert!(opened.is_ok());
        assert!(peak < 96 << 20, "{peak} bytes");
    });
}

/// Nor do the names of matrices grow with groups times modules.
#[test]
fn modules_of_patterns_are_few_and_short() {
    // Groups of no bytes.
    let tensor = |idx: usize, suffix: &str, dtype: &str, shape: &str| {
        format!(r#""{idx}.{suffix}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,0]}}"#)
    };
    let groups: Vec<_> = (0..300)
        .flat_map(|idx| {
            [
                tensor(idx, "encoded_exponent", "U8", "[0]"),
                tensor(idx, "sign_mantissa", "U8", "[0]"),
                tensor(idx, "luts", "U8", "[0,256]"),
                tensor(idx, "gaps", "U8", "[0]"),
                tensor(idx, "output_positions", "U8", "[0]"),
                tensor(idx, "split_positions", "I64", "[0]"),
            ]
        })
        .collect();
    let header = format!("{{{}}}", groups.join(","));
    let folder = tempfile::tempdir().unwrap();
    let file = safetensors(header.len() as u64, &header, 0);
    std::fs::write(folder.path().join("a.safetensors"), file).unwrap();
    let module = format!(r#""{}""#, "m".repeat(1 << 20));
    let config = config_of(&format!(r#"".*":[{module}]"#));
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let (peak, opened) = peak_of(|| Checkpoint::open(folder.path()));
    let error = opened.unwrap_err().to_string();
    assert!(error.ends_with("its patterns name more matrices than models have"), "{error}");
    assert!(peak < 160 << 20, "{peak} bytes");

    let modules = vec![r#""m""#; 100_000].join(",");
    let config = config_of(&format!(r#"".*":[{modules}]"#));
    in_config(&config, |opened, peak| {
        let error = opened.unwrap_err().to_string();
        assert!(error.ends_with(r#"pattern ".*" names 100000 modules, more than 4096"#), "{error}");
        assert!(peak < TIMES * config.len() + CONSTANT, "{peak} bytes");
    });
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str| folder.path().join(name);
    let (path, _) = small_files().swap_remove(0);
    std::fs::copy(path, of("a.safetensors")).unwrap();
    // Its size is said to be 0, and it never ends.
    for name in ["config.json", "model.safetensors.index.json"] {
        std::os::unix::fs::symlink("/dev/zero", of(name)).unwrap();
        let error = match name {
            "config.json" => Checkpoint::open(folder.path()).map(drop),
            _ => Model::open(&[folder.path().to_owned()]).map(drop),
        };
        let error = error.unwrap_err().to_string();
        assert!(error.ends_with("it is not a regular file"), "{error}");
        std::fs::remove_file(of(name)).unwrap();
    }
    // To open it is to wait for someone who writes.
    let is_made = std::process::Command::new("mkfifo").arg(of("b.safetensors")).status();
    if is_made.is_ok_and(|status| status.success()) {
        let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("it is not a regular file"), "{error}");
    }
}

#[test]
fn an_index_costs_what_it_is_long() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..20_000).map(|idx| format!(r#""{idx}":"{idx}.safetensors""#)).collect();
    let index = format!(r#"{{"weight_map":{{{}}}}}"#, names.join(","));
    std::fs::write(folder.path().join("model.safetensors.index.json"), &index).unwrap();
    let (peak, opened) = peak_of(|| Model::open(&[folder.path().to_owned()]));
    assert!(opened.is_err());
    assert!(peak < TIMES * index.len() + CONSTANT, "{peak} bytes");
}

/// Sizes are checked before anything is allocated by them.
#[test]
fn importers_allocate_nothing_for_sizes_that_tensors_do_not_have() {
    let (tail, tier) = (Tail::Minimums, Tier::T4);
    for size in NUMBERS {
        for at in 0..5 {
            let mut sizes = [1, 1, 64, 32, 64];
            sizes[at] = size;
            let [batch, n_heads, n_tokens, head_dim, group] = sizes;
            let shape = RowsShape { batch, n_heads, n_tokens, head_dim };
            let one = vec![f16::ONE; 2];
            let (peak, ()) = peak_of(|| {
                let (codes, words, bytes) = (vec![0; 64], vec![0; 64], vec![0; 64]);
                let _ = ZipCacheValues {
                    shape,
                    tier,
                    codes: codes.clone().into(),
                    steps: one.clone().into(),
                    minimums: one.clone().into(),
                    channel_scales: one.clone().into(),
                }
                .import(tail);
                let _ = ZipCacheKeys {
                    shape,
                    tier,
                    codes: codes.clone().into(),
                    steps: one.clone().into(),
                    minimums: one.clone().into(),
                }
                .import(tail);
                let _ = KiviKeys {
                    shape,
                    tier,
                    group,
                    codes: words.clone().into(),
                    scales: one.clone().into(),
                    minimums: one.clone().into(),
                }
                .import(tail);
                let _ = KiviValues {
                    shape,
                    tier,
                    group,
                    codes: words.into(),
                    scales: one.clone().into(),
                    minimums: one.clone().into(),
                }
                .import(tail);
                let of_tokens =
                    Int8PerToken { shape, codes: bytes.into(), scales: one.clone().into() };
                let _ = of_tokens.import(Part::Keys, tail);
                let _ = Int4PerToken {
                    shape,
                    codes: codes.into(),
                    scales: one.clone().into(),
                    form: ZeroForm::Signed,
                    zeros: vec![].into(),
                }
                .import(Part::Keys, tail);
                let pages = ImportedPages {
                    rows: shape,
                    part: Part::Keys,
                    tier: Tier::T2,
                    tail,
                    span_pages: group,
                    pool: vec![0; 1024],
                    scales: None,
                    offsets: None,
                };
                let _ = (pages.check(), pages.dequantize(), pages.entries(size));
            });
            // A page of 16 bits is 64 rows.
            assert!(peak < CONSTANT, "{sizes:?}: {peak} bytes");
        }
    }
}
