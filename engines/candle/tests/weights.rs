//! Layers of compressed weights are those of the uncompressed ones, bit for bit.

mod common;

use candle_core::{DType, Device, Module, Result, Tensor};
use common::{HIDDEN, INNER, Random, VOCAB, bits, model, open};
use lacuna_candle::lacuna::huffman::Format;
use lacuna_candle::{Keep, Weights};

const FORMATS: [Format; 3] = Format::ALL;

/// As candle_nn's linear layer does.
fn plain_linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let weight = weight.to_dtype(x.dtype())?;
    let y = match x.dims() {
        [.., _, _] if x.rank() > 2 => x.broadcast_matmul(&weight.t()?)?,
        _ => x.matmul(&weight.t()?)?,
    };
    match bias {
        Some(bias) => y.broadcast_add(&bias.to_dtype(x.dtype())?),
        None => Ok(y),
    }
}

#[test]
fn linear_layers_are_those_of_bf16_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = model();
    let mut random = Random(1);
    let names = [
        ("model.layers.0.self_attn.q_proj", HIDDEN, HIDDEN),
        ("model.layers.0.mlp.down_proj", INNER, HIDDEN),
        ("model.layers.1.mlp.up_proj", HIDDEN, INNER),
        ("lm_head", HIDDEN, VOCAB),
    ];
    for format in FORMATS.map(Some).into_iter().chain([None]) {
        for keep in [Keep::Nothing, Keep::Group, Keep::All] {
            let weights = open(folder.path(), format, &Device::Cpu).unwrap();
            let weights = weights.with_keep(keep).unwrap();
            for (path, in_dim, out_dim) in names {
                let linear = weights.linear(in_dim, out_dim, path).unwrap();
                assert_eq!(linear.bias().is_some(), path.ends_with("layers.0.self_attn.q_proj"));
                let weight = &tensors[&format!("{path}.weight")];
                let bias = tensors.get(&format!("{path}.bias"));
                for dtype in [DType::F32, DType::BF16, DType::F16] {
                    for dims in [vec![3, in_dim], vec![1, in_dim], vec![2, 5, in_dim]] {
                        let x = random.tensor(&dims, 1.0).to_dtype(dtype).unwrap();
                        let y = linear.forward(&x).unwrap();
                        let expected = plain_linear(&x, weight, bias).unwrap();
                        assert_eq!((y.dtype(), y.dims()), (dtype, expected.dims()));
                        assert_eq!(
                            bits(&y),
                            bits(&expected),
                            "{format:?} {keep:?} {path} {dtype:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn inputs_of_any_layout_are_what_they_stand_for() {
    let folder = tempfile::tempdir().unwrap();
    let weights = open(folder.path(), Some(Format::Df11), &Device::Cpu).unwrap();
    let linear = weights.linear(HIDDEN, INNER, "model.layers.0.mlp.up_proj").unwrap();
    let all = Random(2).tensor(&[HIDDEN, 7, 4], 1.0);
    let x = all.permute((2, 1, 0)).unwrap().narrow(1, 2, 3).unwrap();
    assert!(!x.is_contiguous());
    let y = linear.forward(&x).unwrap();
    assert_eq!(y.dims(), [4, 3, INNER]);
    assert_eq!(bits(&y), bits(&linear.forward(&x.contiguous().unwrap()).unwrap()));
    // From an offset on, and of no inputs.
    let x = Random(3).tensor(&[6, HIDDEN], 1.0);
    let last = linear.forward(&x.narrow(0, 4, 2).unwrap()).unwrap();
    let all = linear.forward(&x).unwrap().narrow(0, 4, 2).unwrap();
    let distance = (last - all).unwrap().abs().unwrap().max_all().unwrap();
    assert!(distance.to_scalar::<f32>().unwrap() < 1e-4);
    let none = linear.forward(&x.narrow(0, 0, 0).unwrap().reshape((0, 2, HIDDEN)).unwrap());
    assert_eq!(none.unwrap().dims(), [0, 2, INNER]);
}

#[test]
fn embeddings_are_rows_of_bf16_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let weight = &model()["model.embed_tokens.weight"];
    let ids = Tensor::new(&[[0_u32, 332, 17], [16, 17, 128]], &Device::Cpu).unwrap();
    let flat = ids.flatten_all().unwrap();
    let expected = weight.index_select(&flat, 0).unwrap();
    for format in FORMATS.map(Some).into_iter().chain([None]) {
        let weights = open(folder.path(), format, &Device::Cpu).unwrap();
        let embedding = weights.embedding(VOCAB, HIDDEN, "model.embed_tokens").unwrap();
        for ids in [ids.clone(), ids.to_dtype(DType::I64).unwrap()] {
            let rows = embedding.forward(&ids).unwrap();
            assert_eq!((rows.dims(), rows.dtype()), (&[2, 3, HIDDEN][..], DType::BF16));
            assert_eq!(bits(&rows), bits(&expected), "{format:?}");
        }
        let turned = embedding.forward(&ids.t().unwrap()).unwrap();
        let expected = expected.reshape((2, 3, HIDDEN)).unwrap().transpose(0, 1).unwrap();
        assert_eq!(bits(&turned), bits(&expected));
        let none = embedding.forward(&ids.narrow(0, 0, 0).unwrap()).unwrap();
        assert_eq!(none.dims(), [0, 3, HIDDEN]);

        let past = Tensor::new(&[VOCAB as u32], &Device::Cpu).unwrap();
        let refused = embedding.forward(&past).unwrap_err().to_string();
        assert!(refused.contains("embedding") && refused.contains("333"), "{refused}");
        let below = Tensor::new(&[-1_i64], &Device::Cpu).unwrap();
        assert!(embedding.forward(&below).is_err());
    }
}

/// Codes of 12 bits and less hold no group whose exponents are spread so.
#[test]
fn embeddings_of_long_codes_are_rows_too() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("model");
    // Each exponent half as often as the one before: codes of up to 20 bits and more.
    let value = |i: u32| f32::from_bits((127 - i.trailing_zeros().min(30)) << 23) * 1.5;
    let values: Vec<f32> = (1..=1 << 21).map(value).collect();
    let weight = Tensor::from_vec(values, (1 << 15, 64), &Device::Cpu).unwrap();
    let weight = weight.to_dtype(DType::BF16).unwrap();
    common::save(&[("lm_head.weight".to_owned(), weight.clone())].into(), &plain);
    let weights = open(folder.path(), Some(Format::Df11), &Device::Cpu).unwrap();
    let embedding = weights.embedding(1 << 15, 64, "lm_head").unwrap();
    let ids = Tensor::new(&[0_u32, 1 << 14, 32_767], &Device::Cpu).unwrap();
    let rows = embedding.forward(&ids).unwrap();
    assert_eq!(bits(&rows), bits(&weight.index_select(&ids, 0).unwrap()));
}

#[test]
fn tensors_come_by_name_expanded_or_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = model();
    let mut names: Vec<_> = tensors.keys().cloned().collect();
    names.sort_unstable();
    for format in FORMATS.map(Some).into_iter().chain([None]) {
        let weights = open(folder.path(), format, &Device::Cpu).unwrap();
        assert_eq!(weights.names(), names);
        assert_eq!(weights.is_compressed("lm_head.weight"), format.is_some());
        assert!(!weights.is_compressed("model.norm.weight"));
        for name in &names {
            let tensor = weights.tensor(name).unwrap();
            assert_eq!(tensor.dims(), tensors[name].dims(), "{name}");
            assert_eq!(bits(&tensor), bits(&tensors[name]), "{name}");
        }
        let bytes = weights.compressed_bytes();
        let n: usize = names
            .iter()
            .filter(|name| weights.is_compressed(name))
            .map(|name| tensors[name].elem_count())
            .sum();
        // Matrices so small fill few of their tiles.
        let most = if format == Some(Format::Lane) { 3 * n } else { 2 * n };
        assert_eq!(bytes > 0, format.is_some());
        assert!(bytes <= most as u64, "{format:?}: {bytes} of {n} weights");
    }
}

#[test]
fn what_is_not_there_or_of_another_shape_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let weights = open(folder.path(), Some(Format::Df11), &Device::Cpu).unwrap();
    let refused = |result: Result<_>| result.map(|_: ()| ()).unwrap_err().to_string();
    let other = refused(weights.linear(HIDDEN, VOCAB + 1, "lm_head").map(|_| ()));
    assert!(other.contains("lm_head.weight") && other.contains("334"), "{other}");
    let none = refused(weights.linear(HIDDEN, VOCAB, "lm_heed").map(|_| ()));
    assert!(none.contains("lm_heed.weight"), "{none}");
    assert!(weights.embedding(VOCAB, HIDDEN - 8, "model.embed_tokens").is_err());
    let linear = weights.linear(HIDDEN, VOCAB, "lm_head").unwrap();
    let x = Tensor::zeros((2, HIDDEN - 1), DType::F32, &Device::Cpu).unwrap();
    let shape = refused(linear.forward(&x).map(|_| ()));
    assert!(shape.contains("[..., 96], got [2, 95]"), "{shape}");
    let x = Tensor::zeros((2, HIDDEN), DType::U32, &Device::Cpu).unwrap();
    assert!(refused(linear.forward(&x).map(|_| ())).contains("U32"));
    assert!(refused(weights.clone().with_keep(Keep::All).map(|_| ())).contains("already"));
    // lacuna's own words, whole.
    let missing = refused(Weights::open(folder.path().join("none"), &Device::Cpu).map(|_| ()));
    assert!(missing.contains("none") && missing.contains("No such file"), "{missing}");
}

#[test]
fn a_damaged_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path(), Some(Format::Df11), &Device::Cpu).unwrap();
    let damaged = folder.path().join("damaged.safetensors");
    let mut files: Vec<_> = std::fs::read_dir(folder.path().join("df11"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("lm_head"))
        .collect();
    let mut bytes = std::fs::read(files.pop().unwrap()).unwrap();
    let at = bytes.len() - 5_000;
    bytes[at] ^= 0x10;
    std::fs::write(&damaged, bytes).unwrap();
    let refused = Weights::open(&damaged, &Device::Cpu).unwrap_err().to_string();
    assert!(refused.contains("damaged (checksum)"), "{refused}");
}
