use super::*;

/// A file of `fuzz/seeds/tokenizer`.
fn seed(name: &str) -> anyhow::Result<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/tokenizer");
    Ok(std::fs::read(Path::new(folder).join(name))?)
}

fn read(bytes: &[u8]) -> Result<TextTokenizer> {
    TextTokenizer::new(bytes, Path::new("tokenizer.json"))
}

#[test]
fn tokenizers_of_all_kinds_are_read() -> anyhow::Result<()> {
    for (name, text, ids) in [
        ("valid", "CAT", &[4, 6][..]),
        ("valid_clip", "at", &[4, 3]),
        // Its tables make "at" of "C": "cat".
        ("valid_precompiled", "cC", &[4, 6]),
        ("valid_wordpiece", "Red cat", &[1, 2, 3]),
        ("valid_unigram", "a cat", &[1, 0, 2, 3]),
        ("valid_wordlevel", "red big cat dog", &[0, 3, 2]),
    ] {
        let tokenizer = read(&seed(name)?)?;
        assert_eq!(tokenizer.encode(text)?, ids, "{name}: {:?}", tokenizer.pieces(text)?);
    }
    Ok(())
}

/// Each says what is wrong, or is harmless; none may take long, take memory, or panic.
#[test]
fn hostile_tokenizers_are_refused() -> anyhow::Result<()> {
    for (name, reason) in [
        ("attack_replace_bomb", "2048 times longer"),
        ("attack_replace_between", "2048 times longer"),
        ("attack_regex_counts", "length times its counts"),
        ("attack_subword_prefix", "continuing_subword_prefix"),
        ("attack_subword_prefix_in_character", "continuing_subword_prefix"),
        ("attack_precompiled_length", "a trie of 4294967292 bytes, and 4 are"),
        ("attack_precompiled_growth", "2048 times longer"),
        ("attack_precompiled_utf8", "not UTF-8"),
        ("attack_untyped", "has no type"),
        ("attack_sequences", "4 sequences in another"),
        ("attack_nesting", "not JSON"),
        ("attack_dropout", "dropout"),
        ("attack_word_chars", "the limit is 1000"),
        ("attack_fixed_length", "FixedLength"),
        ("attack_merges", "makes no token"),
        ("attack_merge_length", "\"ab\" makes no token"),
        ("attack_token_of_nothing", "nothing is left of the added token \"   \""),
        ("attack_found_endless", "nothing is left of the added token"),
        ("attack_unk_id", "UnkIdNotInVocabulary"),
    ] {
        let error = match read(&seed(name)?) {
            Ok(_) => anyhow::bail!("{name} was read"),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(reason), "{name}: {error}");
        assert!(error.starts_with("tokenizer.json: not a tokenizer: "), "{name}: {error}");
    }
    // Parts that are not used are not read.
    for name in ["attack_template", "attack_truncation"] {
        assert_eq!(read(&seed(name)?)?.encode("cat")?, [6], "{name}");
    }
    for (name, text) in [
        ("attack_token_ids", "at x y"),
        ("attack_scores", "aaab"),
        ("attack_empty_added", " a "),
        ("attack_regex_backtracking", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaab"),
    ] {
        if let Ok(tokenizer) = read(&seed(name)?) {
            let _ = tokenizer.encode(text);
        }
    }
    Ok(())
}

/// Whether the library fails only the text tells, so the file is read. At the start of a
/// text from which nothing was matched, something put in makes the library lose count: an
/// index beyond the text, at `normalizer.rs:373` of tokenizers 0.23.2; the fuzz target found
/// it. Tables of `Precompiled` lead the library anywhere.
#[test]
fn panics_of_the_library_are_errors_of_the_text() -> anyhow::Result<()> {
    for (name, text) in [
        ("attack_match_of_nothing", "cat"),
        ("attack_precompiled", "cat"),
        ("attack_precompiled_trie", "cat"),
        ("attack_precompiled_text", "C"),
    ] {
        let error = read(&seed(name)?)?.encode(text).err().map(|e| e.to_string());
        let error = error.unwrap_or_default();
        let reason = "the library `tokenizers` failed on tokenizer.json";
        assert!(error.contains(reason), "{name}: {error:?}");
    }
    Ok(())
}

#[test]
fn added_tokens_have_a_limit_in_all() -> anyhow::Result<()> {
    let mut value: Value = serde_json::from_slice(&seed("valid")?)?;
    let token = |bytes: usize| serde_json::json!({ "content": "x".repeat(bytes) });
    value["added_tokens"] = serde_json::json!([token(1 << 16), token(1 << 16), token(1)]);
    let error = read(value.to_string().as_bytes()).err().map(|e| e.to_string());
    assert!(error.is_some_and(|error| error.contains("131073 bytes")));
    Ok(())
}

#[test]
fn a_panic_of_the_library_is_an_error() {
    let ask = || -> std::result::Result<(), String> { panic!("no such character") };
    assert!(guarded(ask).is_err_and(|reason| reason.contains("tokenizer.json")));
}
