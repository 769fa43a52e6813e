//! A command as one word of the command line, split as a shell would.

use anyhow::{Result, bail};

/// The words of `command`: separated by blanks, quoted by `'` or `"`, and, where paths are
/// not written with it, a backslash before a character that means itself.
///
/// There is no shell, so that the program itself can be ended, and that a word is only a
/// word: variables, pipes and patterns are not known.
///
/// # Errors
/// When a quote is not closed, or there is no word.
pub fn words(command: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                // Quotes around nothing are a word too.
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') if !cfg!(windows) => {
                let Some(next) = chars.next() else { bail!("it ends with a backslash") };
                let word = word.get_or_insert_default();
                if quote.is_some() && !matches!(next, '"' | '\\') {
                    word.push(c);
                }
                word.push(next);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(open) = quote {
        bail!("a quote ({open}) is not closed");
    }
    words.extend(word);
    if words.is_empty() {
        bail!("no command");
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn as_a_shell_would() -> anyhow::Result<()> {
        let cases: [(&str, &[&str]); 7] = [
            ("python score.py", &["python", "score.py"]),
            ("  a\t b  ", &["a", "b"]),
            ("'my scorer' --at \"a photo\"", &["my scorer", "--at", "a photo"]),
            ("a''b c\"d 'e'\"", &["ab", "cd 'e'"]),
            ("a ''", &["a", ""]),
            ("a '$x' *", &["a", "$x", "*"]),
            ("狐", &["狐"]),
        ];
        for (command, expected) in cases {
            assert_eq!(words(command)?, expected, "{command}");
        }
        if !cfg!(windows) {
            let quoted = words(r#"my\ scorer "a\"b\n" '\'"#)?;
            assert_eq!(quoted, ["my scorer", "a\"b\\n", "\\"]);
            assert!(words("a\\").is_err());
        }
        for wrong in ["", "  ", "'a", "a \"b"] {
            assert!(words(wrong).is_err(), "{wrong:?}");
        }
        Ok(())
    }
}
