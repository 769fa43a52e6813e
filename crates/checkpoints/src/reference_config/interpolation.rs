//! `${a.b}`: a node stands for another one.
//!
//! As in OmegaConf, a value that is one interpolation takes the other node
//! whole, of whatever type; inside a longer string it is written out. Paths are
//! absolute, with keys and list indices. Resolvers (`${env:HOME}`) read from
//! outside the file, and relative paths are not written by the reference: both
//! are refused by name.

use std::borrow::Cow;

use serde_json::Value;

/// How deep values and the paths between them may go together.
const MAX_DEPTH: usize = 128;
/// The largest result, strings and nodes together: interpolations of
/// interpolations double with every line.
const MAX_RESULT_BYTES: usize = 1 << 23;
/// What a node counts for.
const NODE_BYTES: usize = 32;
/// How much of a value a message shows.
const SHOWN_CHARS: usize = 80;

/// Replaces every interpolation in `root`.
///
/// # Errors
/// The reason: a path that leads nowhere or in a circle, an unknown form, or a
/// result beyond the limits.
pub(super) fn resolve(root: &Value) -> Result<Value, String> {
    Resolver { root, active: Vec::new(), depth: 0, bytes: 0 }.value(root)
}

struct Resolver<'a> {
    root: &'a Value,
    /// The paths that are being followed.
    active: Vec<String>,
    depth: usize,
    bytes: usize,
}

impl Resolver<'_> {
    fn value(&mut self, value: &Value) -> Result<Value, String> {
        self.charge(NODE_BYTES)?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("its values and interpolations nest deeper than {MAX_DEPTH}"));
        }
        let resolved = match value {
            Value::Object(object) => {
                let mut resolved = serde_json::Map::new();
                for (key, value) in object {
                    self.charge(key.len())?;
                    resolved.insert(key.clone(), self.value(value)?);
                }
                Value::Object(resolved)
            }
            Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.value(item)).collect::<Result<_, _>>()?)
            }
            Value::String(text) => self.text(text)?,
            scalar => scalar.clone(),
        };
        self.depth -= 1;
        Ok(resolved)
    }

    fn charge(&mut self, bytes: usize) -> Result<(), String> {
        self.bytes += bytes;
        if self.bytes > MAX_RESULT_BYTES {
            return Err(format!("its interpolations make more than {MAX_RESULT_BYTES} bytes"));
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<Value, String> {
        let mut written = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let Some((path, tail)) = after.split_once('}') else {
                return Err(format!("the interpolation {text:.SHOWN_CHARS$?} has no end"));
            };
            let value = self.follow(path)?;
            if before.is_empty() && tail.is_empty() && written.is_empty() {
                return Ok(value);
            }
            self.charge(before.len())?;
            written.push_str(before);
            let part = match value {
                Value::String(part) => part,
                Value::Number(number) => number.to_string(),
                Value::Bool(flag) => (if flag { "True" } else { "False" }).to_string(),
                Value::Null => "None".to_string(),
                _ => {
                    return Err(format!(
                        "${{{path:.SHOWN_CHARS$}}} is a mapping or a list, \
                         which has no place inside a string"
                    ));
                }
            };
            self.charge(part.len())?;
            written.push_str(&part);
            rest = tail;
        }
        self.charge(rest.len())?;
        written.push_str(rest);
        Ok(Value::String(written))
    }

    fn follow(&mut self, path: &str) -> Result<Value, String> {
        let shown = format!("${{{path:.SHOWN_CHARS$}}}");
        if path.contains("${") || path.contains(':') || path.starts_with('.') {
            return Err(format!(
                "{shown} is not supported: write the value, or the full path of a node"
            ));
        }
        if self.active.iter().any(|active| active == path) {
            return Err(format!("{shown} leads back to itself"));
        }
        self.active.push(path.to_string());
        let value = self.node(path, &shown)?;
        self.active.pop();
        Ok(value)
    }

    fn node(&mut self, path: &str, shown: &str) -> Result<Value, String> {
        let mut node = Cow::Borrowed(self.root);
        for key in path.split(['.', '[']).map(|key| key.trim_end_matches(']').trim()) {
            if matches!(&*node, Value::String(text) if text.contains("${")) {
                node = Cow::Owned(self.value(&node)?);
            }
            let child = match &node {
                Cow::Borrowed(node) => child(node, key).map(Cow::Borrowed),
                Cow::Owned(node) => child(node, key).cloned().map(Cow::Owned),
            };
            node = child.ok_or_else(|| {
                format!("{shown} leads nowhere: there is no {key:.SHOWN_CHARS$?}")
            })?;
        }
        self.value(&node)
    }
}

fn child<'a>(node: &'a Value, key: &str) -> Option<&'a Value> {
    match node {
        Value::Object(object) => object.get(key),
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        _ => None,
    }
}
