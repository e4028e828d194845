//! Text to tokens of SmolLM2, and back.

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use crate::gguf::Gguf;
use crate::{Error, Result};

/// llama.cpp's number of tokens that stand for no text.
const CONTROL: i64 = 3;
/// What the model's chat template puts before a conversation that brings no such message.
const SYSTEM: &str = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

/// A tokenizer, and the token that ends an answer.
pub struct Text {
    tokenizer: Tokenizer,
    end: u32,
}

fn error(error: impl std::fmt::Display) -> Error {
    Error::Tokenizer(error.to_string())
}

/// `tokenizer.json` of a GGUF file's metadata: byte-level BPE of which digits stand alone, as SmolLM models have it.
///
/// # Errors
/// [`Error::Tokenizer`] for another tokenizer, and [`Error::Model`] for one that is not there.
pub fn tokenizer_of(gguf: &Gguf) -> Result<Value> {
    for (name, expected) in [("model", "gpt2"), ("pre", "smollm")] {
        let found = gguf.text(&format!("tokenizer.ggml.{name}"))?;
        if found != expected {
            return Err(error(format!("{name}: {expected} was expected, and this is {found}")));
        }
    }
    let tokens = gguf.texts("tokenizer.ggml.tokens")?;
    let kinds = gguf.numbers("tokenizer.ggml.token_type")?;
    let of_control =
        tokens.iter().zip(&kinds).enumerate().filter(|(_, (_, kind))| **kind == CONTROL);
    let added = of_control.map(|(id, (token, _))| {
        json!({
            "id": id, "content": token, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    });
    let added: Vec<_> = added.collect();
    let vocabulary: Map<_, _> =
        tokens.into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    let digits = json!({ "type": "Digits", "individual_digits": true });
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [digits, bytes] },
        "decoder": bytes,
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": gguf.texts("tokenizer.ggml.merges")?,
        },
    }))
}

impl Text {
    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn open(path: &Path) -> Result<Self> {
        let tokenizer = Tokenizer::from_file(path).map_err(error)?;
        let end = tokenizer.token_to_id("<|im_end|>").ok_or_else(|| error("no <|im_end|>"))?;
        Ok(Self { tokenizer, end })
    }

    /// The tokens of a text; names of control tokens are these tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode_fast(text, false).map_err(error)?.get_ids().to_vec())
    }

    /// The text of tokens, without control tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.tokenizer.decode(tokens, true).map_err(error)
    }

    /// The token after an answer.
    pub fn end(&self) -> u32 {
        self.end
    }
}

/// What a user says, as the model's chat template has it, up to where the answer begins.
pub fn chat(user: &str) -> String {
    format!(
        "<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    )
}
