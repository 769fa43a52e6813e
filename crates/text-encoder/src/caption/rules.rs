//! What is replaced in a caption, in the order in which the reference does it.

use std::sync::LazyLock;

use fancy_regex::Regex;

/// A pattern and what stands in its place.
pub(super) struct Rule(Regex, &'static str);

impl Rule {
    pub(super) fn apply(&self, text: String) -> String {
        // A pattern that takes too many steps leaves the caption as it is.
        match self.0.try_replacen(&text, 0, self.1) {
            Ok(replaced) => replaced.into_owned(),
            Err(_) => text,
        }
    }
}

/// A list of rules, compiled when it is first used. All are tested to be patterns.
fn rules(list: &[(&str, &'static str)]) -> Vec<Rule> {
    list.iter().filter_map(|(pattern, by)| Some(Rule(Regex::new(pattern).ok()?, by))).collect()
}

pub(super) static BEFORE: LazyLock<Vec<Rule>> = LazyLock::new(|| rules(BEFORE_REPAIR));
pub(super) static AFTER: LazyLock<Vec<Rule>> = LazyLock::new(|| rules(AFTER_REPAIR));

/// How many of [`BEFORE`] come before tags are taken out.
pub(super) const ADDRESSES: usize = 3;
/// More dashes than this stand for blanks.
pub(super) const DASHES: usize = 3;

/// Before the text is repaired.
const BEFORE_REPAIR: &[(&str, &str)] = &[
    ("<person>", "person"),
    // Addresses. (Where the reference says `www:` it may mean `www.`; models know it so.)
    (
        r"\b((?:https?:(?:\/{1,3}|[a-zA-Z0-9%])|[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b\/?(?!@)))",
        "",
    ),
    (
        r"\b((?:www:(?:\/{1,3}|[a-zA-Z0-9%])|[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b\/?(?!@)))",
        "",
    ),
    // @nickname
    (r"@[\w\d]+\b", ""),
    // Chinese characters and signs around them.
    ("[\u{31c0}-\u{31ef}]+", ""),
    ("[\u{31f0}-\u{31ff}]+", ""),
    ("[\u{3200}-\u{32ff}]+", ""),
    ("[\u{3300}-\u{33ff}]+", ""),
    ("[\u{3400}-\u{4dbf}]+", ""),
    ("[\u{4dc0}-\u{4dff}]+", ""),
    ("[\u{4e00}-\u{9fff}]+", ""),
    // One dash for all, one quote for all.
    (
        "[\\x2d\u{58a}\u{5be}\u{1400}\u{1806}\u{2010}-\u{2015}\u{2e17}\u{2e1a}\u{2e3a}\u{2e3b}\u{2e40}\u{301c}\u{3030}\u{30a0}\u{fe31}\u{fe32}\u{fe58}\u{fe63}\u{ff0d}]+",
        "-",
    ),
    ("[`´«»“”¨]", "\""),
    ("[‘’]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
    // Addresses of machines, times at the end, `\n`, numbers with `#`, long numbers.
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    // Names of files.
    (r"[\S]+\.(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)", ""),
    // """SOLD OUT""", ***SOLD OUT***, #SOLD
    (r#"["']{2,}"#, "\""),
    (r"[\.]{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~\)\(\]\[\}\{\|\\/\*]{1,}", " "),
    (r"\s+\.\s+", " "),
];

/// Afterwards.
const AFTER_REPAIR: &[(&str, &str)] = &[
    // jc6640, jc6640vc, 6640vc231
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (r"\b(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)(\simage[s]?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    // 10x20; the second x is Cyrillic.
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),
    (r"\b\s+\:\s+", ": "),
    (r"(\D[,\./])\b", "${1} "),
    (r"\s+", " "),
    (r#"^["']([\w\W]+)["']$"#, "${1}"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_patterns_are_patterns() {
        assert_eq!((BEFORE.len(), AFTER.len()), (BEFORE_REPAIR.len(), AFTER_REPAIR.len()));
    }
}
