//! What is merged, what is refused, what is said of it and where.

use clap::Parser;
use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::record::Ledger;
use super::row::{Row, State, arrange, to_json, to_table};
use super::*;

const PRESENT: &str = "4b72d81cdfb8";
const OLDER: &str = "0123456789ab";
const KERNEL: &str = "huffman/decode_bf16";
const SHAPE: &str = "4096 x 2048";
const MANIFEST: &str = "\
# room  image  source  target  toolkit  flags  entries  sha256-of-inputs  sha256-of-image
huffman ptx/huffman.sm80.ptx a.cu compute_80 nvrtc -x decode_bf16,decode_f16 00 4b72d81cdfb8b931
huffman ptx/huffman.sm90a.ptx b.cu sm_90a nvrtc -x decode_bf16 00 ecf1e4c16c610504
mma ptx/mma.sm80.ptx c.cu compute_80 nvrtc -x mma_products 00 f78435e9a2ff5de9
";

fn kernels() -> Vec<Kernel> {
    read_manifest(MANIFEST).unwrap()
}

fn cases() -> Vec<Case> {
    let list = format!(
        "{}\n{}\n{}\n",
        json!({"room": "huffman", "kernel": KERNEL, "shape": SHAPE}),
        json!({"room": "huffman", "kernel": KERNEL, "shape": "1024 x 1024"}),
        json!({"room": "huffman", "kernel": "huffman/decode_f16", "shape": SHAPE}),
    );
    read_cases(&list, "huffman", &kernels()).unwrap()
}

/// A row that agrees and was measured.
fn finding() -> Value {
    json!({
        "kernel": KERNEL, "shape": SHAPE, "image": PRESENT, "bits": "agree", "checks": [],
        "time_us": 12.3, "spread_percent": 0.0, "least_bytes": 123456, "copy_us": 8.1, "percent_of_limit": 65.9,
        "clocks": "SM 1980 MHz, memory 2619 MHz, throttle none",
        "peers": [
            {"name": "DFloat11 0.5.0", "time_us": 30.2},
            {"name": "nvCOMP <ANS> | 6.0", "why": "no libnvcomp.so was given"},
        ],
        "why": null,
    })
}

/// The row with some fields otherwise.
fn but(mut row: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        row[name] = value.clone();
    }
    row
}

fn results(mode: &str, date: &str, rows: &[Value]) -> Value {
    json!({
        "room": "huffman", "mode": mode,
        "device": {
            "name": "NVIDIA H100 80GB HBM3", "capability": "9.0", "driver": "13.0",
            "multiprocessors": 132, "l2_bytes": 52428800, "memory_bytes": 85000000000_u64,
        },
        "date": date, "commit": "11835da", "rows": rows,
    })
}

fn on_a100(mut results: Value) -> Value {
    results["device"]["name"] = json!("NVIDIA A100");
    results
}

/// A folder of result files, in the order given.
fn folder(files: &[Value]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (idx, file) in files.iter().enumerate() {
        fs::write(folder.path().join(format!("{idx}.json")), file.to_string()).unwrap();
    }
    folder
}

fn ledger(files: &[Value]) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.add(folder(files).path()).unwrap();
    ledger
}

/// What the files of a ledger hold.
fn written(ledger: &Ledger) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    ledger.write(folder.path()).unwrap();
    let mut files: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// The state of `KERNEL` at `SHAPE` after these result files.
fn state(files: &[Value]) -> State {
    let (ledger, kernels, cases) = (ledger(files), kernels(), cases());
    let rows = arrange(&ledger, &kernels, &cases);
    let found = rows.iter().find(|row| row.kernel == KERNEL && row.shape == Some(SHAPE));
    found.unwrap().state
}

#[test]
fn the_newer_wins_and_of_one_date_the_last() {
    let at = |date, time: f64| {
        let row = but(finding(), json!({"time_us": time}));
        results("bench", date, &[row])
    };
    let time = |files: &[Value]| {
        let ledger = ledger(files);
        let (kernels, cases) = (kernels(), cases());
        arrange(&ledger, &kernels, &cases)[0].figures().unwrap().time_us.unwrap()
    };
    assert_eq!(time(&[at("2026-11-25", 1.0), at("2026-11-26", 2.0)]), 2.0);
    assert_eq!(time(&[at("2026-11-26", 2.0), at("2026-11-25", 1.0)]), 2.0);
    assert_eq!(time(&[at("2026-11-25", 1.0), at("2026-11-25", 2.0)]), 2.0);
    assert_eq!(time(&[at("2026-11-25", 2.0), at("2026-11-25", 1.0)]), 1.0);
}

#[test]
fn adding_again_changes_nothing_and_reading_gives_what_was_written() {
    // A sloppy reader of floats takes the last digit for a 0.
    let row = but(finding(), json!({"time_us": 25.641_025_641_025_642}));
    let rows = [row, but(finding(), json!({"shape": "1024 x 1024"}))];
    let files = [
        results("bench", "2026-11-25", &rows),
        on_a100(results("check", "2026-11-25", &[finding()])),
    ];
    let mut once = ledger(&files);
    let first = written(&once);
    assert!(first[1].1.contains("\"time_us\":25.641025641025642,"));
    assert_eq!(
        first.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["nvidia-a100.json", "nvidia-h100-80gb-hbm3.json"]
    );
    once.add(folder(&files).path()).unwrap();
    assert_eq!(written(&once), first);

    let folder = tempfile::tempdir().unwrap();
    once.write(folder.path()).unwrap();
    assert_eq!(written(&Ledger::read(folder.path()).unwrap()), first);
    let reversed = [files[1].clone(), files[0].clone()];
    assert_eq!(written(&ledger(&reversed)), first);
}

#[test]
fn nothing_measured_is_nothing_kept() {
    let none = json!({
        "bits": null, "time_us": null, "copy_us": null, "percent_of_limit": null,
        "why": "no memory",
    });
    let empty = but(finding(), none);
    let mut ledger = ledger(&[results("bench", "2026-11-25", &[finding()])]);
    let before = written(&ledger);
    let no_time = but(empty.clone(), json!({"bits": "agree"}));
    let skipped = but(empty.clone(), json!({"checks": [{"check": "graph", "result": "skipped"}]}));
    for (mode, row) in
        [("bench", &empty), ("check", &empty), ("bench", &no_time), ("check", &skipped)]
    {
        let files = folder(&[results(mode, "2026-11-26", std::slice::from_ref(row))]);
        let said = ledger.add(files.path()).unwrap();
        assert_eq!(
            said,
            "left out: 0.json: huffman/decode_bf16 at 4096 x 2048: nothing was measured: no memory\n"
        );
    }
    assert_eq!(written(&ledger), before);

    let older = folder(&[results("bench", "2026-11-24", &[finding()])]);
    assert!(ledger.add(older.path()).unwrap().contains("the ledger has one of 2026-11-25"));
    assert_eq!(written(&ledger), before);

    let checks = json!([{"check": "launch", "result": "fail", "why": "the driver is too old"}]);
    let unloaded = but(finding(), json!({"image": null, "bits": null, "checks": checks}));
    let unloaded = folder(&[results("check", "2026-11-26", &[unloaded])]);
    let said = ledger.add(unloaded.path()).unwrap();
    assert!(said.ends_with("no image was loaded: the driver is too old\n"), "{said}");
    assert_eq!(written(&ledger), before);

    // Wrong bits are kept without a time too.
    let wrong = but(empty, json!({"bits": "differ"}));
    ledger.add(folder(&[results("bench", "2026-11-26", &[wrong])]).path()).unwrap();
    assert!(!written(&ledger)[0].1.contains("time_us\":12.3"));
}

#[test]
fn a_kernel_is_proven_by_its_present_image_alone() {
    let check = |date, changes| results("check", date, &[but(finding(), changes)]);
    let bench = |date, changes| results("bench", date, &[but(finding(), changes)]);
    let failing = json!({"checks": [{"check": "graph replay", "result": "fail", "why": "hang"}]});
    let (early, late) = ("2026-11-25", "2026-11-26");

    assert_eq!(state(&[check(early, json!({"shape": "1024 x 1024"}))]).name(), "unproven");
    assert_eq!(state(&[check(early, json!({}))]), State::Proven);
    assert_eq!(state(&[bench(early, json!({}))]), State::Proven);
    assert_eq!(state(&[check(early, json!({"image": "ecf1e4c16c61"}))]), State::Proven);
    assert_eq!(state(&[bench(early, json!({"bits": null}))]), State::Unproven);

    assert_eq!(state(&[check(early, json!({"bits": "differ"}))]), State::Failed);
    assert_eq!(state(&[check(early, failing.clone())]), State::Failed);
    assert_eq!(state(&[check(early, failing), bench(late, json!({}))]), State::Failed);
    let differs = json!({"bits": "differ"});
    assert_eq!(state(&[check(early, differs.clone()), bench(late, json!({}))]), State::Proven);
    assert_eq!(state(&[check(early, json!({})), bench(late, differs.clone())]), State::Failed);
    assert_eq!(state(&[check(late, json!({})), bench(late, differs)]), State::Failed);

    let old = json!({"image": OLDER});
    assert_eq!(state(&[check(early, old.clone())]), State::Stale);
    assert_eq!(state(&[check(early, json!({})), bench(late, old.clone())]), State::Proven);
    assert_eq!(state(&[check(early, json!({"bits": "differ"})), bench(late, old)]), State::Failed);
    let wrong = json!({"image": OLDER, "bits": "differ"});
    assert_eq!(state(&[check(early, wrong)]), State::Unproven);
}

#[test]
fn every_device_has_its_state_and_what_is_gone_is_listed() {
    let lost = but(finding(), json!({"shape": "7 x 7"}));
    let stranger = but(finding(), json!({"kernel": "huffman/decode_f8"}));
    let ledger = ledger(&[
        results("check", "2026-11-25", &[finding(), lost, stranger]),
        on_a100(results("check", "2026-11-25", &[but(finding(), json!({"image": OLDER}))])),
    ]);
    let (kernels, cases) = (kernels(), cases());
    let rows = arrange(&ledger, &kernels, &cases);
    let found: Vec<_> =
        rows.iter().map(|row| (row.kernel, row.shape, row.state.name(), row.device())).collect();
    let (a100, h100) = (Some("NVIDIA A100"), Some("NVIDIA H100 80GB HBM3"));
    assert_eq!(
        found,
        [
            (KERNEL, Some(SHAPE), "stale", a100),
            (KERNEL, Some(SHAPE), "proven", h100),
            (KERNEL, Some("1024 x 1024"), "unproven", None),
            ("huffman/decode_f16", Some(SHAPE), "unproven", None),
            ("mma/mma_products", None, "unproven", None),
            (KERNEL, Some("7 x 7"), "gone", h100),
            ("huffman/decode_f8", Some(SHAPE), "gone", h100),
        ]
    );
    assert!(to_table(&rows).contains("gone"));
}

#[test]
fn json_has_these_names_and_null_where_nothing_is_known() {
    let ledger = ledger(&[results("bench", "2026-11-25", &[finding()])]);
    let (kernels, cases) = (kernels(), cases());
    let rows: Value = serde_json::from_str(&to_json(&arrange(&ledger, &kernels, &cases))).unwrap();
    let ratio = 30.2 / 12.3;
    assert_eq!(
        rows[0],
        json!({
            "kernel": KERNEL, "shape": SHAPE, "state": "proven", "device": "NVIDIA H100 80GB HBM3",
            "image": PRESENT, "time_us": 12.3, "percent_of_limit": 65.9,
            "ratio_to": {"DFloat11 0.5.0": ratio, "nvCOMP <ANS> | 6.0": null},
        })
    );
    assert_eq!(
        rows[1],
        json!({
            "kernel": KERNEL, "shape": "1024 x 1024", "state": "unproven", "device": null,
            "image": null, "time_us": null, "percent_of_limit": null, "ratio_to": {},
        })
    );
    assert_eq!(rows[3]["shape"], Value::Null);
    let names: Vec<_> = rows[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        names.join(" "),
        "kernel shape state device image time_us percent_of_limit ratio_to"
    );
}

#[test]
fn the_table_says_what_is_wrong_and_which_figures_are_old() {
    let check = json!({"bits": "differ", "why": "element 7", "checks": [
        {"check": "graph replay", "result": "skipped", "why": "no\n  graphs"},
        {"check": "two grids", "result": "fail"},
    ]});
    let ledger = ledger(&[
        results("check", "2026-11-26", &[but(finding(), check)]),
        results("bench", "2026-11-25", &[but(finding(), json!({"image": OLDER}))]),
    ]);
    let (kernels, cases) = (kernels(), cases());
    let table = to_table(&arrange(&ledger, &kernels, &cases));
    let place = "huffman/decode_bf16 at 4096 x 2048 on NVIDIA H100 80GB HBM3, 2026-11-26, image";
    for expected in [
        "failed, figures of an older image",
        "65.9 %",
        "12.3 us",
        "DFloat11 0.5.0: 2.46; nvCOMP <ANS> | 6.0: not run",
        &format!("{place} {PRESENT}: bits differ: element 7\n"),
        &format!("{place} {PRESENT}: graph replay was skipped: no graphs\n"),
        &format!("{place} {PRESENT}: two grids failed\n"),
    ] {
        assert!(table.contains(expected), "{expected:?} in\n{table}");
    }
    let nothing = to_table(&arrange(&Ledger::default(), &kernels, &cases));
    assert!(nothing.ends_with("\nnothing has run on a GPU yet\n"));
}

#[test]
fn malformed_files_are_named_with_the_place_and_nothing_is_kept() {
    let good = results("bench", "2026-11-25", &[finding()]);
    let row = |changes| results("bench", "2026-11-25", &[finding(), but(finding(), changes)]);
    let head = |name: &str, value: Value| but(good.clone(), json!({name: value}));
    let device = |name: &str, value: Value| {
        let mut file = good.clone();
        file["device"][name] = value;
        file
    };
    let malformed = [
        (head("colour", json!(1)), "unknown field `colour`"),
        (head("mode", json!("guess")), "unknown variant `guess`"),
        (head("date", json!("25.11.2026")), "is not YYYY-MM-DD"),
        (head("date", json!("2026-13-01")), "is not YYYY-MM-DD"),
        (head("commit", json!("")), "commit \"\" is no name"),
        (head("room", json!("mma")), "not of the room \"mma\""),
        (device("name", json!("GPU\n")), "is no name"),
        (device("name", json!("???")), "has no letter"),
        (device("name", json!("Rehearsal in the SIMT executor, compute 9.0")), "no GPU"),
        (device("capability", json!("executor")), "is no GPU's"),
        (row(json!({"colour": 1})), "unknown field `colour`"),
        (row(json!({"bits": "perhaps"})), "unknown variant `perhaps`"),
        (row(json!({"image": "4B72D81CDFB8"})), "is not 12 hexadecimal digits"),
        (row(json!({"shape": ""})), "rows[1], huffman/decode_bf16 at : shape \"\" is no name"),
        (row(json!({"shape": "1", "time_us": 0})), "time_us is 0, which nobody measured"),
        (row(json!({"shape": "1", "time_us": null})), "percent_of_limit of no time_us"),
        (row(json!({"shape": "1", "peers": [{"name": "P"}]})), "neither time_us nor why"),
        (row(json!({"shape": "1", "peers": [{"name": "P", "time": 1}]})), "unknown field `time`"),
        (row(json!({"shape": "1", "checks": [{"check": "", "result": "pass"}]})), "check \"\""),
        (row(json!({})), "rows[1], huffman/decode_bf16 at 4096 x 2048: listed twice"),
        (json!("half a f"), "invalid type"),
    ];
    for (file, expected) in malformed {
        let mut ledger = Ledger::default();
        let folder = folder(&[good.clone(), file]);
        let error = ledger.add(folder.path()).unwrap_err();
        assert!(error.contains("1.json: ") && error.contains(expected), "{expected}: {error}");
        assert!(ledger.is_empty());
    }
    let truncated = folder(&[]);
    fs::write(truncated.path().join("a.json"), "{\n \"room\": ").unwrap();
    let error = Ledger::default().add(truncated.path()).unwrap_err();
    assert!(error.ends_with("a.json: EOF while parsing a value at line 2 column 9"), "{error}");
    let of_the_script = folder(&[]);
    for name in ["doctor.json", "summary-check.json", "huffman-tests.log"] {
        fs::write(of_the_script.path().join(name), "{}").unwrap();
    }
    let error = Ledger::default().add(of_the_script.path()).unwrap_err();
    assert!(error.ends_with("no result file (*.json)"), "{error}");
}

#[test]
fn a_damaged_ledger_is_refused() {
    let good = written(&ledger(&[results("bench", "2026-11-25", &[finding()])]));
    let [(name, text)] = &good[..] else { panic!("one device") };
    let record = text.trim_start_matches("[\n").trim_end_matches("\n]\n");
    let image = format!("\"image\":\"{PRESENT}\",");
    for (name, text, expected) in [
        (name.as_str(), format!("[{record},{record}]"), "4096 x 2048: recorded twice"),
        ("other.json", text.clone(), "its device belongs in nvidia-h100-80gb-hbm3.json"),
        (name.as_str(), text.replace("12.3", "-12.3"), "time_us is -12.3"),
        (name.as_str(), text.replace(PRESENT, "x"), "\"x\" is not 12 hexadecimal digits"),
        (name.as_str(), text.replace("\"time_us\":12.3,", ""), "percent_of_limit of no time_us"),
        (name.as_str(), text.replace(&image, ""), "no image was loaded"),
        (name.as_str(), text.replace("\"clocks\"", "\"cloaks\""), "unknown field `cloaks`"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name), text).unwrap();
        let error = Ledger::read(folder.path()).err().unwrap();
        assert!(error.contains(name) && error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn what_benches_list_must_be_in_the_manifest() {
    let names: Vec<_> = kernels().into_iter().map(|kernel| kernel.name).collect();
    assert_eq!(names, [KERNEL, "huffman/decode_f16", "mma/mma_products"]);
    assert_eq!(kernels()[0].images, [PRESENT, "ecf1e4c16c61"]);
    let line = json!({"room": "huffman", "kernel": KERNEL, "shape": SHAPE}).to_string();
    for (text, room, expected) in [
        ("running 0 tests".to_owned(), "huffman", "in: running 0 tests"),
        (line.clone(), "mma", "no such kernel in mma"),
        (line.replace("bf16", "f64"), "huffman", "no such kernel in huffman"),
        (format!("{line}\n{line}"), "huffman", "listed twice"),
    ] {
        let error = read_cases(&text, room, &kernels()).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    assert!(read_manifest("huffman a b").is_err());
}

const PAGE: &str = "before\n<!-- ledger -->\nold\n<!-- /ledger -->\nafter\n";

#[test]
fn the_readme_says_unproven_once_per_kernel_until_something_ran() {
    let (kernels, cases) = (kernels(), cases());
    let empty = Ledger::default();
    let expected = "\
        <!-- Made by `cargo xtask ledger --readme --plot`. -->\n\n\
        | kernel | GPU |\n\
        |---|---|\n\
        | `huffman/decode_bf16` | **unproven**: not yet run on a GPU |\n\
        | `huffman/decode_f16` | **unproven**: not yet run on a GPU |\n\
        | `mma/mma_products` | **unproven**: not yet run on a GPU |\n\n";
    assert_eq!(readme::render(&arrange(&empty, &kernels, &cases)), expected);
    assert_eq!(readme::render(&arrange(&empty, &kernels, &[])), expected, "whatever the shapes");

    let failed = but(finding(), json!({"shape": "1024 x 1024", "bits": "differ"}));
    let gone = but(finding(), json!({"shape": "7 x 7"}));
    let ledger = ledger(&[results("bench", "2026-11-25", &[finding(), failed, gone])]);
    let expected = "\
        <!-- Made by `cargo xtask ledger --readme --plot`. -->\n\n\
        | kernel | shape | GPU | device | of the copy limit | time | peers' time / ours |\n\
        |---|---|---|---|---|---|---|\n\
        | `huffman/decode_bf16` | 4096 x 2048 | proven | NVIDIA H100 80GB HBM3 | 65.9 % | 12.3 us \
        | DFloat11 0.5.0: 2.46; nvCOMP &lt;ANS> \\| 6.0: not run |\n\
        | `huffman/decode_bf16` | 1024 x 1024 | **failed** | NVIDIA H100 80GB HBM3 | - | - | - |\n\
        | `huffman/decode_f16` | all | **unproven**: not yet run on a GPU | - | - | - | - |\n\
        | `mma/mma_products` | all | **unproven**: not yet run on a GPU | - | - | - | - |\n\
        \n\
        The copy limit is the time of a copy of the least bytes that any kernel could move. \
        Where a peer's time / ours is above 1, the peer takes longer.\n\
        \n\
        ![Percent of the copy limit](benches/ledger/percent.svg)\n\n";
    assert_eq!(readme::render(&arrange(&ledger, &kernels, &cases)), expected);
}

#[test]
fn the_readme_has_each_marker_once_and_in_order() {
    let page = readme::splice(PAGE, "new\n").unwrap();
    assert_eq!(page, "before\n<!-- ledger -->\nnew\n<!-- /ledger -->\nafter\n");
    assert_eq!(readme::splice(&page, "new\n").unwrap(), page);
    for (page, expected) in [
        ("<!-- ledger -->", "<!-- /ledger --> must stand there once, and does 0 times"),
        ("<!-- /ledger -->", "<!-- ledger --> must stand there once, and does 0 times"),
        ("<!-- /ledger --> <!-- ledger -->", "<!-- /ledger --> stands before <!-- ledger -->"),
        (&PAGE.repeat(2), "<!-- ledger --> must stand there once, and does 2 times"),
    ] {
        assert_eq!(readme::splice(page, "").unwrap_err(), expected);
    }
}

/// The texts of a picture, which is well-formed.
fn read_picture(rows: &[Row<'_>]) -> Vec<String> {
    let picture = plot::draw(rows);
    assert_eq!(plot::draw(rows), picture);
    let document = roxmltree::Document::parse(&picture).unwrap();
    let texts = document
        .descendants()
        .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "text")));
    texts.map(|node| node.text().unwrap().to_owned()).collect()
}

#[test]
fn the_picture_is_xml_whatever_the_names() {
    let (kernels, cases) = (kernels(), cases());
    let nothing = read_picture(&arrange(&Ledger::default(), &kernels, &cases));
    assert_eq!(nothing, ["Percent of the copy limit: nothing is measured on a GPU yet."]);

    let peers = json!({"peers": [
        {"name": "<b>\"&amp;' ]]> --", "time_us": 24.6},
        {"name": "not run", "why": "absent"},
        {"name": "absurd", "time_us": 0.001},
    ]});
    let failed = but(finding(), json!({"shape": "1024 x 1024", "bits": "differ"}));
    let stale = but(finding(), json!({"kernel": "huffman/decode_f16", "image": OLDER}));
    let ledger = ledger(&[results("bench", "2026-11-25", &[but(finding(), peers), failed, stale])]);
    let texts = read_picture(&arrange(&ledger, &kernels, &cases));
    for expected in [
        "huffman/decode_bf16, 4096 x 2048, NVIDIA H100 80GB HBM3",
        "lacuna",
        "65.9 %",
        "<b>\"&amp;' ]]> --",
        "33.0 %",
        "810570.0 %",
        "huffman/decode_f16, 4096 x 2048, NVIDIA H100 80GB HBM3 (stale)",
    ] {
        assert!(texts.iter().any(|text| text == expected), "{expected} in {texts:?}");
    }
    assert!(texts.iter().all(|text| text != "not run" && !text.contains("1024 x 1024")));
}

#[test]
fn drift_is_named_with_its_remedy() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join(FOLDER)).unwrap();
    fs::write(root.path().join(README), PAGE).unwrap();
    let kernels = kernels();
    let empty = Ledger::default();
    let files = make_files(root.path(), &arrange(&empty, &kernels, &[])).unwrap();
    let error = check(root.path(), &files).unwrap_err();
    assert_eq!(
        error,
        "differs from what the ledger gives: README.md, benches/ledger/percent.svg; \
         run `cargo xtask ledger --readme --plot` and commit the result"
    );
    for file in &files {
        fs::write(root.path().join(file.path), &file.content).unwrap();
    }
    check(root.path(), &make_files(root.path(), &arrange(&empty, &kernels, &[])).unwrap()).unwrap();

    let ledger = ledger(&[results("bench", "2026-11-25", &[finding()])]);
    let cases = cases();
    let files = make_files(root.path(), &arrange(&ledger, &kernels, &cases)).unwrap();
    assert!(check(root.path(), &files).unwrap_err().contains("README.md, benches"));
}

#[test]
fn arguments_that_contradict_are_refused() {
    #[derive(Debug, clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        options: Options,
    }
    let parse =
        |text: &str| Arguments::try_parse_from(["ledger"].into_iter().chain(text.split(' ')));
    let Arguments { options } = parse("--add results --plot").unwrap();
    assert_eq!(options.add.as_deref(), Some(Path::new("results")));
    assert!(options.plot && !options.readme);
    assert_eq!(parse("--json --only mma").unwrap().options.only.as_deref(), Some("mma"));
    for text in
        ["--only", "--add", "--guess", "--json --check", "--only mma --readme", "--check --plot"]
    {
        assert!(parse(text).is_err(), "{text}");
    }
}
