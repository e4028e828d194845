//! What a method costs: perplexity of held text, and needles that are found.

use crate::Result;
use crate::llama::Llama;
use crate::methods::MethodKind;
use crate::needles::Needle;
use crate::session::{Prompt, greatest, surprise};
use crate::text::Text;

/// Tokens of an answer, at most.
const N_ANSWER: usize = 24;

/// Text that was read, and how it goes on.
pub struct Held {
    prompt: Prompt,
    rest: Vec<u32>,
}

impl Held {
    /// Reads all but the last `n` tokens.
    ///
    /// # Errors
    /// Those of [`Prompt::read`].
    pub fn read(model: &Llama, tokens: &[u32], n: usize) -> Result<Self> {
        let (context, rest) = tokens.split_at(tokens.len() - n);
        Ok(Self { prompt: Prompt::read(model, context, n)?, rest: rest.to_vec() })
    }

    /// The perplexity of the last `n` tokens, each told what came before it, and the share of bytes of the cache that a step reads at the end.
    ///
    /// # Errors
    /// Those of [`Session::push`](crate::session::Session::push).
    pub fn perplexity(&self, model: &Llama, method: &MethodKind) -> Result<(f64, f64)> {
        let mut session = self.prompt.session(model, method, false)?;
        let logits = session.push(&self.rest[..self.rest.len() - 1])?;
        let before = std::iter::once(self.prompt.logits()).chain(logits.iter().map(Vec::as_slice));
        let sum: f64 = before.zip(&self.rest).map(|(logits, token)| surprise(logits, *token)).sum();
        let [read, full] = session.bytes();
        Ok(((sum / self.rest.len() as f64).exp(), read as f64 / full as f64))
    }
}

/// A needle whose context was read.
pub struct Hidden<'a> {
    needle: &'a Needle,
    prompt: Prompt,
}

impl<'a> Hidden<'a> {
    /// # Errors
    /// Those of [`Prompt::read`].
    pub fn read(model: &Llama, needle: &'a Needle) -> Result<Self> {
        let n_more = needle.question.len() + N_ANSWER;
        Ok(Self { needle, prompt: Prompt::read(model, &needle.context, n_more)? })
    }

    /// The answer, of which question and all are read by the method.
    ///
    /// # Errors
    /// Those of [`Session::push`](crate::session::Session::push).
    pub fn answer(&self, model: &Llama, text: &Text, method: &MethodKind) -> Result<String> {
        let mut session = self.prompt.session(model, method, false)?;
        let logits = session.push(&self.needle.question)?;
        let mut token = greatest(&logits[logits.len() - 1]);
        let mut answer = Vec::new();
        while token != text.end() && answer.len() < N_ANSWER {
            answer.push(token);
            token = greatest(&session.push(&[token])?[0]);
        }
        text.decode(&answer)
    }

    /// Whether an answer has the number.
    pub fn is_right(&self, answer: &str) -> bool {
        answer.contains(&self.needle.answer)
    }
}
