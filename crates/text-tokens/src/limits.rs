//! What a `tokenizer.json` may ask for.
//!
//! A chain of harmless replacements makes gigabytes of a word, a short regular expression
//! a program of gigabytes, and some numbers are used without a look at them. All that is
//! found here, before the library sees it.

use serde_json::Value;

use crate::charsmap;

/// Normalizers and pre-tokenizers together, and how deep sequences of them may lie.
const MAX_STEPS: usize = 24;
const MAX_DEPTH: usize = 4;
/// The times that all steps together may make a text longer, in bytes. The longest chain
/// of the well-known tokenizers comes to about 200.
const MAX_GROWTH: usize = 2048;
/// What one character may become under NFKC and its kin, a byte for each of its own.
const UNICODE_GROWTH: usize = 12;
/// Bytes of a regular expression times all its counts, `{1,3}` being three.
const MAX_REGEX_WEIGHT: usize = 4096;
/// Bytes of all added tokens.
const MAX_ADDED_BYTES: usize = 128 << 10;
/// A word that WordPiece takes; its time is the square of this.
const MAX_WORD_CHARS: u64 = 1000;

type Check<T = ()> = Result<T, String>;

/// Checks everything that becomes part of a tokenizer.
pub(crate) fn check(tokenizer: &Value) -> Check {
    let mut steps = Steps { count: 0, growth: 1 };
    steps.add(&tokenizer["normalizer"], "normalizers", normalizer, 0)?;
    steps.add(&tokenizer["pre_tokenizer"], "pretokenizers", pre_tokenizer, 0)?;
    added(&tokenizer["added_tokens"])?;
    model(&tokenizer["model"])
}

/// What the steps come to, up to one of them.
struct Steps {
    count: usize,
    growth: usize,
}

impl Steps {
    /// Adds `step`, or those in it if it is a sequence, which holds them as `inner`.
    /// `growth` is that of a step of the type, or `None` for a type that is not known.
    fn add(
        &mut self,
        step: &Value,
        inner: &str,
        growth: fn(&str, &Value) -> Check<Option<usize>>,
        depth: usize,
    ) -> Check {
        if step.is_null() {
            return Ok(());
        }
        // Without a type the library guesses one from the fields.
        let Some(kind) = step["type"].as_str() else {
            return Err(format!("one of its {inner} has no type"));
        };
        self.count += 1;
        if self.count > MAX_STEPS || depth > MAX_DEPTH {
            return Err(format!(
                "more than {MAX_STEPS} steps, or {MAX_DEPTH} sequences in another"
            ));
        }
        if kind == "Sequence" {
            let steps = step[inner].as_array().ok_or("a Sequence without steps")?;
            return steps.iter().try_for_each(|step| self.add(step, inner, growth, depth + 1));
        }
        let factor = growth(kind, step)?
            .ok_or_else(|| format!("{kind:?} among its {inner} is not accepted here"))?;
        self.growth = self.growth.saturating_mul(factor);
        if self.growth > MAX_GROWTH {
            return Err(format!("its {inner} make a text more than {MAX_GROWTH} times longer"));
        }
        Ok(())
    }
}

fn normalizer(kind: &str, step: &Value) -> Check<Option<usize>> {
    Ok(Some(match kind {
        "Strip" | "StripAccents" | "Nmt" => 1,
        // A capital letter of two bytes has a small one of three.
        "Lowercase" | "ByteLevel" => 2,
        // Spaces around ideographs, accents apart, lower case.
        "BertNormalizer" => UNICODE_GROWTH,
        "NFC" | "NFD" | "NFKC" | "NFKD" => UNICODE_GROWTH,
        // A pattern may match between all bytes.
        "Replace" => {
            pattern(&step["pattern"])?;
            1 + text(&step["content"])?
        }
        "Precompiled" => {
            let table = step["precompiled_charsmap"].as_str();
            charsmap::growth(table.ok_or("Precompiled without its tables")?)?
        }
        "Prepend" => 1 + text(&step["prepend"])?,
        _ => return Ok(None),
    }))
}

fn pre_tokenizer(kind: &str, step: &Value) -> Check<Option<usize>> {
    Ok(Some(match kind {
        "BertPreTokenizer" | "Whitespace" | "WhitespaceSplit" | "Punctuation" | "Digits"
        | "UnicodeScripts" | "CharDelimiterSplit" => 1,
        "FixedLength" if step["length"].as_u64().is_none_or(|length| length > 0) => 1,
        "FixedLength" => return Err("FixedLength of nothing".to_owned()),
        "ByteLevel" => 2,
        // A space becomes a character, and one is put in front.
        "Metaspace" => 8,
        "Split" => {
            pattern(&step["pattern"])?;
            1
        }
        _ => return Ok(None),
    }))
}

fn text(value: &Value) -> Check<usize> {
    value.as_str().map(str::len).ok_or_else(|| "a step without its text".to_owned())
}

/// `{"String": ..}` or `{"Regex": ..}`.
fn pattern(value: &Value) -> Check {
    let literal = value["String"].as_str().map(|text| text.len());
    let weight = match (value["Regex"].as_str(), literal) {
        (Some(regex), _) => regex.len().saturating_mul(counts(regex)),
        (None, Some(length)) => length,
        (None, None) => return Err("a pattern that is neither a String nor a Regex".to_owned()),
    };
    if weight > MAX_REGEX_WEIGHT {
        return Err(format!(
            "a pattern that is too large: its length times its counts is {weight}, the limit \
             {MAX_REGEX_WEIGHT}"
        ));
    }
    Ok(())
}

/// The product of all counts in a regular expression, an upper bound of how often a part
/// of it is repeated when it is compiled. Any number in braces is taken for one.
fn counts(regex: &str) -> usize {
    let inside = regex.split('{').skip(1).map(|rest| rest.split('}').next().unwrap_or_default());
    inside.fold(1, |product: usize, inside| {
        let numbers = inside.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
        let largest = numbers.map(|n| n.parse().unwrap_or(usize::MAX)).max();
        product.saturating_mul(largest.unwrap_or(1).max(1))
    })
}

fn added(tokens: &Value) -> Check {
    let Some(tokens) = tokens.as_array() else { return Ok(()) };
    let bytes: usize = tokens.iter().filter_map(|t| t["content"].as_str()).map(str::len).sum();
    if bytes > MAX_ADDED_BYTES {
        return Err(format!("its added tokens have {bytes} bytes, the limit is {MAX_ADDED_BYTES}"));
    }
    Ok(())
}

fn model(model: &Value) -> Check {
    let kind = model["type"].as_str().ok_or("its model has no type")?;
    match kind {
        "BPE" => {
            if !model["dropout"].is_null() {
                return Err("a BPE with dropout gives other ids each time".to_owned());
            }
            // The library cuts it from every second part of a merge unseen, which may be
            // in the middle of a character or longer than the part.
            match &model["continuing_subword_prefix"] {
                Value::Null => {}
                Value::String(prefix) if prefix.is_empty() => {}
                _ => {
                    return Err(
                        "a BPE with a continuing_subword_prefix is not accepted here".to_owned()
                    );
                }
            }
            merges(&model["merges"], &model["vocab"])
        }
        "WordPiece" => match model["max_input_chars_per_word"].as_u64() {
            Some(chars) if chars > MAX_WORD_CHARS => {
                Err(format!("words of {chars} characters, the limit is {MAX_WORD_CHARS}"))
            }
            _ => Ok(()),
        },
        "WordLevel" | "Unigram" => Ok(()),
        kind => Err(format!("a model of type {kind:?} is not known")),
    }
}

/// Every merge makes a token. The library has room for the longest one, and panics where
/// a merge makes more.
fn merges(merges: &Value, vocabulary: &Value) -> Check {
    for merge in merges.as_array().map(Vec::as_slice).unwrap_or_default() {
        let made = match merge {
            Value::String(line) if line.starts_with("#version") => continue,
            Value::String(line) => line.split(' ').collect(),
            merge => {
                let parts = merge.as_array().map(Vec::as_slice).unwrap_or_default();
                parts.iter().filter_map(Value::as_str).collect::<String>()
            }
        };
        if vocabulary.get(&made).is_none() {
            return Err(format!("the merge {made:.80?} makes no token of its vocabulary"));
        }
    }
    Ok(())
}
