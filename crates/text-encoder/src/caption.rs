//! Captions as LlamaGen's models were trained on them.

mod html;
mod rules;
mod text;

use self::html::without_tags;
use self::rules::{AFTER, BEFORE, DASHES, Rule};
use self::text::{repaired, unquoted};

/// A caption as LlamaGen cleans it (`text_preprocessing` in its `language/t5.py`): lower
/// case, without addresses, tags, file names, and most signs; twice over.
///
/// Two things are left as they are: text that was decoded by the wrong character set
/// (`Ã©`), which the reference's `ftfy` guesses, and scripts that only that library knows to
/// repair.
pub fn clean_caption(caption: &str) -> String {
    clean(&clean(caption))
}

fn clean(caption: &str) -> String {
    let text = unquoted(caption);
    let text = text.trim().to_lowercase();
    let (addresses, rest) = BEFORE.split_at(rules::ADDRESSES);
    let text = replace(addresses, text);
    let text = without_tags(&text);
    let mut text = replace(rest, text);
    // this-is-my-cute-cat
    if text.matches(['-', '_']).count() > DASHES {
        text = text.replace(['-', '_'], " ");
    }
    let text = repaired(&text);
    replace(&AFTER, text.trim().to_owned()).trim().to_owned()
}

fn replace(rules: &[Rule], text: String) -> String {
    rules.iter().fold(text, |text, rule| rule.apply(text))
}

#[cfg(test)]
mod tests {
    use super::clean_caption;

    /// Captions, and what the reference makes of them; see the fixture's README.
    const CASES: &str = include_str!("../tests/data/cleaned.json");

    #[test]
    fn as_the_reference_cleans_them() -> anyhow::Result<()> {
        let cases: Vec<(String, String)> = serde_json::from_str(CASES)?;
        let mut wrong = Vec::new();
        for (caption, expected) in &cases {
            // The one thing that is not done.
            if caption.contains('Ã') || caption.contains('Ð') {
                continue;
            }
            let cleaned = clean_caption(caption);
            if cleaned != *expected {
                wrong.push(format!("{caption:?}: {cleaned:?}, not {expected:?}"));
            }
        }
        assert!(wrong.is_empty() && cases.len() > 80, "{}", wrong.join("\n"));
        Ok(())
    }

    #[test]
    fn any_text_is_cleaned() {
        for text in ["&", "<", "<!--", "%", "%4", "&#", "&#x;", "&#99999999999;", "<a '", "\0", "-"]
        {
            clean_caption(text);
        }
        assert!(clean_caption(&"a-<b>&lt;".repeat(20_000)).len() < 200_000);
    }
}
