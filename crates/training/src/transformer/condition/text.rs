//! Captions as tokens.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::utils::Sequence;
use tokenizers::normalizers::{Lowercase, NFKC, NormalizerWrapper};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{Tokenizer, TokenizerBuilder};

/// A byte-level BPE tokenizer (Sennrich et al. 2016, on bytes as in GPT-2) that does
/// not see case.
pub struct Text {
    tokenizer: Tokenizer,
}

impl Text {
    /// The tokenizer in the file `path`; if there is none, one trained on `captions`
    /// with at most `vocabulary` tokens, and kept there, so that a run which goes on
    /// has the same.
    ///
    /// # Errors
    /// If there are no captions, or the file is no tokenizer.
    pub fn open_or_train<'a>(
        path: &Path,
        captions: impl Iterator<Item = &'a str>,
        vocabulary: usize,
    ) -> Result<Self> {
        if path.exists() {
            let tokenizer = Tokenizer::from_file(path)
                .map_err(|e| anyhow!("{} is no tokenizer: {e}", path.display()))?;
            return Ok(Self { tokenizer });
        }
        let captions: Vec<&str> = captions.collect();
        ensure!(
            !captions.is_empty(),
            "no captions to learn from: the data folder needs a captions.jsonl with a line \
             {{\"file\": \"NAME\", \"caption\": \"...\"}} for each picture"
        );
        let text = Self::train(&captions, vocabulary)?;
        let json = text.to_json()?;
        checkpoints::atomic_write(path, |file| file.write_all(json.as_bytes()))?;
        Ok(text)
    }

    fn train(captions: &[&str], vocabulary: usize) -> Result<Self> {
        let broken = |e: tokenizers::Error| anyhow!("tokenizer: {e}");
        let bytes = ByteLevel::new(true, true, true);
        let normalizer = Sequence::new(vec![
            NormalizerWrapper::NFKC(NFKC),
            NormalizerWrapper::Lowercase(Lowercase),
        ]);
        let mut tokenizer = TokenizerBuilder::new()
            .with_model(BPE::default())
            .with_normalizer(Some(normalizer))
            .with_pre_tokenizer(Some(bytes))
            .with_post_processor(Some(bytes))
            .with_decoder(Some(bytes))
            .build()
            .map_err(broken)?;
        let mut trainer = BpeTrainerBuilder::new()
            .show_progress(false)
            .vocab_size(vocabulary)
            .min_frequency(2)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        tokenizer.train(&mut trainer, captions.iter().copied()).map_err(broken)?;
        // The same as it will be read back.
        let json = tokenizer.to_string(false).map_err(broken)?;
        let tokenizer = Tokenizer::from_bytes(json.as_bytes()).map_err(broken)?;
        Ok(Self { tokenizer })
    }

    /// Kinds of tokens.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The tokens of `caption`.
    ///
    /// # Errors
    /// If the tokenizer cannot.
    pub fn encode(&self, caption: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode(caption, false);
        Ok(encoding.map_err(|e| anyhow!("{caption:?}: {e}"))?.get_ids().to_vec())
    }

    /// The content of `tokenizer.json`.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        self.tokenizer.to_string(true).map_err(|e| anyhow!("{e}")).context("tokenizer.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_has_tokens_and_training_repeats() -> Result<()> {
        let captions: Vec<String> =
            (0..60).map(|i| format!("3D emoji of a {} cat", ["red", "blue"][i % 2])).collect();
        let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
        let text = Text::train(&captions, 300)?;
        assert!((257..=300).contains(&text.vocabulary()), "{}", text.vocabulary());
        assert_eq!(text.encode("Emoji")?, text.encode("eMOJI")?);
        assert!(text.encode("emoji of a cat")?.len() <= 4);
        assert!(!text.encode("日本 🎉")?.is_empty());
        assert!(text.encode("")?.is_empty());
        assert_eq!(text.to_json()?, Text::train(&captions, 300)?.to_json()?);

        let dir = tempfile::tempdir()?;
        let path = dir.path().join("tokenizer.json");
        let made = Text::open_or_train(&path, captions.iter().copied(), 300)?;
        let again = Text::open_or_train(&path, std::iter::empty(), 300)?;
        assert_eq!(made.to_json()?, again.to_json()?);
        std::fs::remove_file(&path)?;
        assert!(Text::open_or_train(&path, std::iter::empty(), 300).is_err());
        Ok(())
    }
}
