//! Any model is compressed, or refused without a trace: what is written is read, and gives the model back,
//! as does every other format that it is turned into.
#![no_main]

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use lacuna::huffman::{Checkpoint, Format, GroupPattern, compress, decompress, transcode};
use lacuna_fuzz::{Input, use_one_thread};
use libfuzzer_sys::fuzz_target;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

fuzz_target!(init: use_one_thread(), |bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a directory");
    run(&mut Input::new(bytes), folder.path());
});

/// What names are made of.
const PARTS: [&str; 20] = [
    "",
    "a",
    "a_b",
    ".",
    "..",
    "/",
    "/tmp/",
    "\\",
    "\"",
    "\n",
    "é",
    "model",
    "config",
    "layers.7",
    "lm_head",
    "self_attn.q_proj",
    "weight",
    "sign_mantissa",
    "lane_header",
    "granule_bits",
];

fn name(input: &mut Input<'_>) -> String {
    let mut name: String = (0..input.byte() % 4)
        .map(|idx| {
            let part = match input.byte() {
                part @ 0..=199 => Cow::Borrowed(PARTS[usize::from(part) % PARTS.len()]),
                _ => {
                    let n = usize::from(input.byte() % 32);
                    String::from_utf8_lossy(input.bytes(n))
                }
            };
            if idx == 0 { part.into_owned() } else { format!(".{part}") }
        })
        .collect();
    if !input.byte().is_multiple_of(8) {
        name += ".weight";
    }
    name
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn tensors(input: &mut Input<'_>) -> Tensors {
    let mut tensors = Tensors::new();
    for _ in 0..1 + input.byte() % 6 {
        let name = name(input);
        let n_sides = if input.byte().is_multiple_of(8) { input.byte() % 4 } else { 2 };
        let shape: Vec<_> = (0..n_sides).map(|_| input.number(40)).collect();
        let n = shape.iter().product::<usize>();
        let (dtype, bytes) = match input.byte() % 8 {
            0 => (Dtype::F32, vec![1; 4 * n]),
            1 => (Dtype::U8, vec![2; n]),
            _ => (Dtype::BF16, input.weights(n).iter().flat_map(|w| w.to_le_bytes()).collect()),
        };
        tensors.insert(name, (dtype, shape, bytes));
    }
    tensors
}

fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).expect("what was written");
    let tensors = SafeTensors::deserialize(&bytes).expect("a sound file");
    let tensor = |(name, view): (String, TensorView<'_>)| {
        (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    tensors.tensors().into_iter().map(tensor).collect()
}

fn run(input: &mut Input<'_>, folder: &Path) {
    let tensors = tensors(input);
    let metadata: HashMap<_, _> =
        (0..input.byte() % 3).map(|_| (name(input), name(input))).collect();
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).expect("as many bytes as its shape"))
    });
    let model = folder.join("model.safetensors");
    let metadata = (!metadata.is_empty()).then_some(metadata);
    std::fs::write(&model, safetensors::serialize(views, metadata).expect("a model"))
        .expect("a file");
    let patterns = match input.byte() % 4 {
        0 => GroupPattern::defaults(),
        1 => vec![GroupPattern::parse(".*")],
        // Any number of names that end so.
        2 => vec![GroupPattern::parse("(?s).*=a,self_attn.q_proj"), GroupPattern::parse("(?s).*")],
        _ => vec![GroupPattern::parse("(?s).*")],
    };
    let format = Format::ALL[usize::from(input.byte()) % Format::ALL.len()];
    let out = folder.join("out");
    std::fs::create_dir(&out).expect("a directory");
    let output = |name: &str, input: &mut Input<'_>| -> PathBuf {
        let is_file = input.byte().is_multiple_of(2);
        out.join(if is_file { format!("{name}.safetensors") } else { name.to_owned() })
    };
    let written = output("first", input);
    if compress(&[model], &written, &patterns, format, &|_| {}).is_err() {
        assert!(std::fs::read_dir(&out).expect("a directory").next().is_none());
        return;
    }
    check(input, &tensors, &written, &out.join("back.safetensors"), 2, &output);
    // The file or directory of each checkpoint, what came back, and nothing unfinished beside them.
    for entry in std::fs::read_dir(&out).expect("a directory") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name of ours");
        assert!(["back", "first", "turned"].iter().any(|known| name.starts_with(known)), "{name}");
    }
}

/// That a checkpoint gives the model back, and so do others that it is turned into.
fn check(
    input: &mut Input<'_>,
    tensors: &Tensors,
    path: &Path,
    back: &Path,
    n_left: usize,
    output: &dyn Fn(&str, &mut Input<'_>) -> PathBuf,
) {
    let checkpoint = Checkpoint::open(path).expect("what was written");
    decompress(&checkpoint, back, &|_| {}).expect("what was written");
    let found = read(back);
    for (name, (dtype, shape, bytes)) in tensors {
        let (own_dtype, own_shape, own_bytes) = found.get(name).unwrap_or_else(|| {
            panic!("no {name:?} among {:?} of {}", found.keys(), path.display())
        });
        assert_eq!((own_dtype, own_shape), (dtype, shape), "{name:?} of {}", path.display());
        assert!(own_bytes == bytes, "{name:?} of {}", path.display());
    }
    assert_eq!(found.len(), tensors.len(), "{:?} of {}", found.keys(), path.display());
    if n_left == 0 {
        return;
    }
    let format = [Format::Compact, Format::Lane][usize::from(input.byte() % 2)];
    let turned = output(&format!("turned-{n_left}"), input);
    // A tensor that is not compressed may have a name that the other format has for its own.
    if transcode(&checkpoint, &turned, format, &|_| {}).is_err() {
        assert!(!turned.exists());
        return;
    }
    check(input, tensors, &turned, back, n_left - 1, output);
}
