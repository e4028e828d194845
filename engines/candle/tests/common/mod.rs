//! A small model, and numbers that are the same every time.
#![allow(dead_code, reason = "each test file takes a part")]

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use lacuna::huffman::{Format, GroupPattern, compress};
use lacuna_candle::{Weights, lacuna};

/// A generator of SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Of a bell's shape, around 0.
    pub(crate) fn normal(&mut self) -> f32 {
        (0..6).map(|_| (self.next() >> 40) as f32 / (1 << 24) as f32 - 0.5).sum::<f32>() * 1.4
    }

    pub(crate) fn tensor(&mut self, dims: &[usize], scale: f32) -> Tensor {
        let n = dims.iter().product();
        let values: Vec<f32> = (0..n).map(|_| self.normal() * scale).collect();
        Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
    }
}

pub(crate) const HIDDEN: usize = 96;
pub(crate) const INNER: usize = 200;
pub(crate) const VOCAB: usize = 333;

/// A block of seven matrices, a head with a bias, an embedding, and a norm.
pub(crate) fn model() -> HashMap<String, Tensor> {
    let mut random = Random(7);
    let mut tensors = HashMap::new();
    let mut put = |name: &str, dims: &[usize]| {
        let tensor = random.tensor(dims, 0.05).to_dtype(DType::BF16).unwrap();
        tensors.insert(name.to_owned(), tensor);
    };
    put("model.embed_tokens.weight", &[VOCAB, HIDDEN]);
    for layer in 0..2 {
        for (name, dims) in [
            ("self_attn.q_proj", [HIDDEN, HIDDEN]),
            ("self_attn.k_proj", [32, HIDDEN]),
            ("self_attn.v_proj", [32, HIDDEN]),
            ("self_attn.o_proj", [HIDDEN, HIDDEN]),
            ("mlp.gate_proj", [INNER, HIDDEN]),
            ("mlp.up_proj", [INNER, HIDDEN]),
            ("mlp.down_proj", [HIDDEN, INNER]),
        ] {
            put(&format!("model.layers.{layer}.{name}.weight"), &dims);
        }
        put(&format!("model.layers.{layer}.self_attn.q_proj.bias"), &[HIDDEN]);
    }
    put("model.norm.weight", &[HIDDEN]);
    put("lm_head.weight", &[VOCAB, HIDDEN]);
    tensors
}

pub(crate) fn save(tensors: &HashMap<String, Tensor>, folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    candle_core::safetensors::save(tensors, folder.join("model.safetensors")).unwrap();
}

/// The model in a format, opened on a device; `None`: uncompressed.
pub(crate) fn open(folder: &Path, format: Option<Format>, device: &Device) -> Result<Weights> {
    let plain = folder.join("model");
    if !plain.exists() {
        save(&model(), &plain);
    }
    let Some(format) = format else { return Weights::open(plain, device) };
    let output = folder.join(format.name());
    if !output.exists() {
        compress(&[plain], &output, &GroupPattern::defaults(), format, &|_| ()).unwrap();
    }
    Weights::open(output, device)
}

/// The bits of a tensor's elements, as u32.
pub(crate) fn bits(tensor: &Tensor) -> Vec<u32> {
    let tensor = tensor.flatten_all().unwrap();
    let wide = |tensor: &Tensor| tensor.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
    match tensor.dtype() {
        DType::F32 | DType::BF16 | DType::F16 => {
            wide(&tensor).iter().map(|x| x.to_bits()).collect()
        }
        _ => tensor.to_dtype(DType::U32).unwrap().to_vec1().unwrap(),
    }
}
