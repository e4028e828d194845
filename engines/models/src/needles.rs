//! Facts hidden in a long text, and questions about them.

use crate::Result;
use crate::text::{Text, chat};

/// The text that facts are hidden in, and of which perplexity is measured: written for this in November 2026, after any model here was trained.
pub const PROSE: &str = include_str!("../text/held.txt");

/// Who has a number: nobody of the prose.
const NAMES: [&str; 16] = [
    "Harlow", "Denby", "Kestrel", "Marlowe", "Selwyn", "Tamsin", "Overton", "Brindle", "Winslow",
    "Calder", "Fenwick", "Ridley", "Ashford", "Lowell", "Penrose", "Granby",
];

/// A long prompt with a fact in it, and the question about it at its end.
#[derive(Debug, Clone)]
pub struct Needle {
    /// All that is read before the question.
    pub context: Vec<u32>,
    /// The question.
    pub question: Vec<u32>,
    /// The digits that an answer must have.
    pub answer: String,
    /// Where the fact is, as a share of the text.
    pub depth: f64,
}

/// As many as asked for, at depths that are spread over the text; each in so many of the text's tokens.
///
/// # Errors
/// [`Error::Tokenizer`](crate::Error::Tokenizer).
pub fn needles(text: &Text, n: usize, n_tokens: usize) -> Result<Vec<Needle>> {
    let of_paragraphs = PROSE
        .split("\n\n")
        .map(str::trim)
        .map(|paragraph| Ok((paragraph, text.encode(paragraph)?.len() + 1)));
    let mut left = n_tokens;
    let mut paragraphs = Vec::new();
    for paragraph in of_paragraphs.collect::<Result<Vec<_>>>()? {
        if paragraph.1 > left {
            break;
        }
        left -= paragraph.1;
        paragraphs.push(paragraph.0);
    }
    (0..n).map(|i| needle(text, &paragraphs, i, n)).collect()
}

fn needle(text: &Text, paragraphs: &[&str], i: usize, n: usize) -> Result<Needle> {
    let name = NAMES[i % NAMES.len()];
    // Digits of no order that a model would guess.
    let answer = format!("{}", 10_000 + (i as u64 + 1) * 48_271 * 69_621 % 89_989);
    let depth = (i as f64 + 0.5) / n as f64;
    let at = (depth * (paragraphs.len() + 1) as f64) as usize;
    let fact = format!("The secret number of {name} is {answer}. Remember it.");
    let all = [&paragraphs[..at], &[&fact], &paragraphs[at..]].concat().join("\n\n");
    let question = format!("\n\nWhat is the secret number of {name}?");
    let prompt = chat(&format!("Read this text.\n\n{all}{question}"));
    let (context, question) = prompt.split_at(prompt.find(&question).unwrap_or(prompt.len()));
    Ok(Needle { context: text.encode(context)?, question: text.encode(question)?, answer, depth })
}
