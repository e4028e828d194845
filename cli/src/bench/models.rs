//! The matrices that a model multiplies by for each token.

use std::path::Path;

use serde_json::Value;

/// The sizes of a dense transformer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) name: String,
    pub(crate) n_layers: u64,
    pub(crate) hidden: u64,
    pub(crate) intermediate: u64,
    pub(crate) n_heads: u64,
    pub(crate) n_kv_heads: u64,
    pub(crate) head_dim: u64,
    pub(crate) vocabulary: u64,
}

/// Layers, hidden, intermediate, heads, heads of keys and values, their dimension, and vocabulary, as the models' own
/// `config.json` has them.
const MODELS: &[(&str, [u64; 7])] = &[
    ("Llama-3.2-1B", [16, 2048, 8192, 32, 8, 64, 128_256]),
    ("Llama-3.2-3B", [28, 3072, 8192, 24, 8, 128, 128_256]),
    ("Llama-3.1-8B", [32, 4096, 14_336, 32, 8, 128, 128_256]),
    ("Llama-3.1-70B", [80, 8192, 28_672, 64, 8, 128, 128_256]),
    ("Mistral-7B-v0.3", [32, 4096, 14_336, 32, 8, 128, 32_768]),
    ("Qwen3-0.6B", [28, 1024, 3072, 16, 8, 128, 151_936]),
    ("Qwen3-4B", [36, 2560, 9728, 32, 8, 128, 151_936]),
    ("Qwen3-8B", [36, 4096, 12_288, 32, 8, 128, 151_936]),
    ("Qwen3-14B", [40, 5120, 17_408, 40, 8, 128, 151_936]),
    ("Qwen3-32B", [64, 5120, 25_600, 64, 8, 128, 151_936]),
];

impl Sizes {
    /// A model by name, or by its `config.json`.
    pub(crate) fn of(model: &str) -> Result<Self, String> {
        let same = |(name, _): &&(&str, _)| name.eq_ignore_ascii_case(model);
        if let Some((name, sizes)) = MODELS.iter().find(same) {
            let [n_layers, hidden, intermediate, n_heads, n_kv_heads, head_dim, vocabulary] =
                *sizes;
            return Ok(Self {
                name: (*name).to_owned(),
                n_layers,
                hidden,
                intermediate,
                n_heads,
                n_kv_heads,
                head_dim,
                vocabulary,
            });
        }
        let path = Path::new(model);
        let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
        if !path.exists() {
            let names: Vec<_> = MODELS.iter().map(|(name, _)| *name).collect();
            return Err(format!(
                "{model} is no file, and none of the models known by name: {}",
                names.join(", ")
            ));
        }
        let text =
            std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let config = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        Self::of_config(model, &config).map_err(|why| format!("{}: {why}", path.display()))
    }

    fn of_config(name: &str, config: &Value) -> Result<Self, String> {
        // Of what has eyes, the part that speaks.
        let config = config.get("text_config").unwrap_or(config);
        for experts in ["num_experts", "num_local_experts", "n_routed_experts"] {
            if config.get(experts).and_then(Value::as_u64).is_some_and(|n| n > 1) {
                return Err(format!("it has {experts}: only dense models are known"));
            }
        }
        let find = |key: &str| config.get(key).and_then(Value::as_u64);
        let number = |key: &str, or: Option<u64>| {
            let found = find(key).or(or).ok_or_else(|| format!("it has no number {key}"))?;
            // No model comes near; a matrix has fewer than 2^32 weights.
            let is_possible = (1..1 << 20).contains(&found);
            is_possible.then_some(found).ok_or_else(|| format!("{key} is {found}"))
        };
        let (hidden, n_heads) =
            (number("hidden_size", None)?, number("num_attention_heads", None)?);
        let sizes = Self {
            name: name.to_owned(),
            n_layers: number("num_hidden_layers", None)?,
            hidden,
            intermediate: number("intermediate_size", None)?,
            n_heads,
            n_kv_heads: number("num_key_value_heads", Some(n_heads))?,
            head_dim: number("head_dim", Some(hidden / n_heads))?,
            vocabulary: number("vocab_size", None)?,
        };
        Ok(sizes)
    }

    /// A layer, and what comes after the last: each with how often a token passes it.
    pub(crate) fn blocks(&self) -> [Block; 2] {
        let [q, kv] = [self.n_heads, self.n_kv_heads].map(|n| n * self.head_dim);
        let (hidden, intermediate) = (self.hidden, self.intermediate);
        [
            Block {
                n_times: self.n_layers,
                products: vec![
                    Product {
                        is_gated: false,
                        sides: vec![[q, hidden], [kv, hidden], [kv, hidden]],
                    },
                    Product { is_gated: false, sides: vec![[hidden, q]] },
                    Product { is_gated: true, sides: vec![[intermediate, hidden]; 2] },
                    Product { is_gated: false, sides: vec![[hidden, intermediate]] },
                ],
            },
            Block {
                n_times: 1,
                products: vec![Product { is_gated: false, sides: vec![[self.vocabulary, hidden]] }],
            },
        ]
    }
}

/// What a token passes so many times, each time with other weights.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) n_times: u64,
    pub(crate) products: Vec<Product>,
}

/// Matrices of one launch, by rows and columns.
#[derive(Debug, Clone)]
pub(crate) struct Product {
    pub(crate) is_gated: bool,
    pub(crate) sides: Vec<[u64; 2]>,
}

impl Block {
    /// Its matrices in order.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = [u64; 2]> + '_ {
        self.products.iter().flat_map(|product| product.sides.iter().copied())
    }

    pub(crate) fn n_weights(&self) -> u64 {
        self.matrices().map(|[n_rows, n_columns]| n_rows * n_columns).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Billions of parameters without embeddings and output layer, as the models' cards say or leave to subtract.
    const PUBLISHED: [(&str, f64); 10] = [
        ("Llama-3.2-1B", 0.97),
        ("Llama-3.2-3B", 2.82),
        ("Llama-3.1-8B", 6.98),
        ("Llama-3.1-70B", 68.5),
        ("Mistral-7B-v0.3", 6.98),
        ("Qwen3-0.6B", 0.44),
        ("Qwen3-4B", 3.6),
        ("Qwen3-8B", 6.95),
        ("Qwen3-14B", 13.2),
        ("Qwen3-32B", 31.2),
    ];

    #[test]
    fn models_have_as_many_weights_as_is_published() {
        assert_eq!(MODELS.len(), PUBLISHED.len());
        for (name, billions) in PUBLISHED {
            let sizes = Sizes::of(&name.to_lowercase()).unwrap();
            let [block, head] = sizes.blocks();
            let found = (block.n_weights() * block.n_times) as f64 / 1e9;
            assert!((found / billions - 1.0).abs() < 0.011, "{name}: {found}");
            assert_eq!(head.n_weights(), sizes.vocabulary * sizes.hidden);
        }
    }

    #[test]
    fn a_config_is_read_and_refused_with_a_reason() {
        let mut config = serde_json::json!({
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "vocab_size": 100,
        });
        let sizes = Sizes::of_config("tiny", &config).unwrap();
        assert_eq!((sizes.n_kv_heads, sizes.head_dim), (4, 16));
        let nested = serde_json::json!({ "text_config": config });
        assert_eq!(Sizes::of_config("tiny", &nested).unwrap(), sizes);
        config["vocab_size"] = serde_json::json!(1 << 30);
        assert_eq!(Sizes::of_config("tiny", &config).unwrap_err(), "vocab_size is 1073741824");
        config["num_experts"] = serde_json::json!(8);
        assert!(Sizes::of_config("tiny", &config).unwrap_err().contains("only dense models"));
        let why = Sizes::of_config("tiny", &serde_json::json!({})).unwrap_err();
        assert_eq!(why, "it has no number hidden_size");
        assert!(Sizes::of("gpt-9").unwrap_err().contains("Llama-3.1-8B"));
    }
}
