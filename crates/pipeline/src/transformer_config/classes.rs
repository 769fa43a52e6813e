//! Classes by what users call them.

use strsim::levenshtein;

use super::{ClassCondition, ConditionConfig, TransformerConfig};
use crate::error::{Error, Result};

impl TransformerConfig {
    /// Puts `names` in the place of those of its classes.
    ///
    /// # Errors
    /// If it has none, or another number of them.
    pub(crate) fn name_classes(&mut self, names: &[String]) -> Result<()> {
        let own = match &mut self.condition {
            ConditionConfig::Class(condition) => &mut condition.names,
            ConditionConfig::Layout(condition) => &mut condition.names,
            condition => {
                return Err(Error::Condition(format!(
                    "names of classes were given to a model whose condition is of kind {}",
                    condition.kind()
                )));
            }
        };
        if own.len() != names.len() {
            return Err(Error::Condition(format!(
                "{} names were given for the {} classes of the model",
                names.len(),
                own.len()
            )));
        }
        *own = names.to_vec();
        Ok(())
    }
}

impl ClassCondition {
    /// The number of the class that `text` names: a number, or a name (upper and
    /// lower case are one, and so are `_`, `-` and spaces; one of several
    /// synonyms will do).
    ///
    /// # Errors
    /// A message with the nearest name.
    pub fn find(&self, text: &str) -> std::result::Result<usize, String> {
        if let Some(class) = self.names.iter().position(|name| name == text) {
            return Ok(class);
        }
        let wanted = plain(text);
        let synonyms = || {
            self.names.iter().enumerate().flat_map(|(class, name)| {
                std::iter::once(name.as_str())
                    .chain(name.split(','))
                    .map(move |name| (class, name.trim()))
            })
        };
        if let Some((class, _)) = synonyms().find(|(_, name)| plain(name) == wanted) {
            return Ok(class);
        }
        if let Ok(number) = text.trim().parse::<usize>() {
            return match number < self.names.len() {
                true => Ok(number),
                false => Err(format!(
                    "there is no class {number}: the model has {}, numbered from 0",
                    self.names.len()
                )),
            };
        }
        // "cat" means "tabby cat" rather than "bat".
        let has_word = |name: &str| plain(name).split(' ').any(|word| word == wanted);
        let nearest = synonyms()
            .min_by_key(|(_, name)| (!has_word(name), levenshtein(&wanted, &plain(name))));
        let (class, name) = nearest.unwrap_or_default();
        Err(format!(
            "there is no class {text:?}; the nearest of {} is {name:?} (number {class})",
            self.names.len()
        ))
    }
}

/// For comparison: lower case, one kind of separator.
fn plain(name: &str) -> String {
    name.trim().to_lowercase().replace(['_', '-'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_names_synonyms_and_the_nearest() {
        let names = ["tench, Tinca tinca", "goldfish", "great white shark", "7"];
        let classes =
            ClassCondition { names: names.map(str::to_owned).to_vec(), offset: 10, null: None };
        for (text, class) in [
            ("0", 0),
            ("3", 3),
            ("7", 3),
            ("Tinca tinca", 0),
            ("tench, tinca tinca", 0),
            ("GOLDFISH", 1),
            ("great_white-shark", 2),
        ] {
            assert_eq!(classes.find(text), Ok(class), "{text}");
        }
        for (text, words) in [
            ("4", "from 0"),
            ("golfish", "\"goldfish\" (number 1)"),
            ("shark", "\"great white shark\""),
            ("", "7"),
        ] {
            let error = classes.find(text).err().unwrap_or_default();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
