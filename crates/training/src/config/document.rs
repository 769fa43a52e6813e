//! TOML documents with overrides, unknown keys and differences.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use strsim::levenshtein;
use toml::{Table, Value};

/// Parses `text` with `overrides` applied; what neither sets is as in
/// `defaults`. Keys `of_others` are refused with the reasons
/// beside them.
pub(super) fn parse<T: Serialize + DeserializeOwned>(
    text: &str,
    overrides: &[String],
    defaults: &T,
    of_others: &[(&str, &str)],
) -> Result<T> {
    let mut table: Table = toml::from_str(text)?;
    // Kinds first: another kind leaves nothing of its section, whose keys may follow.
    let (kinds, others): (Vec<_>, Vec<_>) =
        overrides.iter().partition(|assignment| key(assignment).ends_with(".kind"));
    for assignment in kinds.into_iter().chain(others) {
        assign(&mut table, assignment)?;
    }
    let given = leaves(&table);
    if let Some((key, reason)) = of_others.iter().find(|(key, _)| given.contains_key(*key)) {
        bail!("{key}: {reason}; leave it out");
    }
    let mut whole = Table::try_from(defaults)?;
    let mut known = leaves(&whole);
    merge(&mut whole, table);
    let parsed: std::result::Result<T, _> = whole.try_into();
    if let Ok(config) = &parsed {
        // Which keys a quantizer has depends on its kind.
        known.extend(leaves(&Table::try_from(config)?));
    }
    for key in given.keys().filter(|key| !known.contains_key(*key)) {
        let nearest = known.keys().min_by_key(|other| levenshtein(key, other));
        match nearest {
            Some(nearest) if parsed.is_ok() || levenshtein(key, nearest) <= 3 => {
                bail!("unknown key {key}: did you mean {nearest}?")
            }
            _ => {}
        }
    }
    Ok(parsed?)
}

/// The keys whose values differ, with `key: ours -> theirs`.
pub(super) fn differences<T: Serialize>(ours: &T, theirs: &T) -> Result<Vec<(String, String)>> {
    let (ours, theirs) = (leaves(&Table::try_from(ours)?), leaves(&Table::try_from(theirs)?));
    let show = |value: Option<&Value>| value.map_or("nothing".to_string(), Value::to_string);
    let mut keys: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
    keys.sort();
    keys.dedup();
    let changed = keys.into_iter().filter(|key| ours.get(*key) != theirs.get(*key));
    Ok(changed
        .map(|key| {
            let text = format!("{key}: {} -> {}", show(ours.get(key)), show(theirs.get(key)));
            (key.clone(), text)
        })
        .collect())
}

/// Lays `over` over `base`. A section of another `kind` replaces the one below.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above))
                if above.get("kind").is_none_or(|kind| below.get("kind") == Some(kind)) =>
            {
                merge(below, above);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// The key of `key=value`.
fn key(assignment: &str) -> &str {
    assignment.split_once('=').map_or(assignment, |(key, _)| key).trim()
}

/// Sets `a.b.c=value` in `table`; dashes in keys are read as underscores. The value is
/// TOML where it parses as TOML, and a plain string otherwise, so that paths need no
/// quotes. Another `kind` empties its section.
fn assign(table: &mut Table, assignment: &str) -> Result<()> {
    let (path, text) = assignment
        .split_once('=')
        .with_context(|| format!("{assignment:?} is not of the form key=value"))?;
    let parsed = toml::from_str::<Table>(&format!("value = {text}"));
    let value = match parsed.ok().and_then(|mut table| table.remove("value")) {
        Some(value) => value,
        None => Value::String(text.to_string()),
    };
    let path = path.trim().replace('-', "_");
    let mut keys: Vec<&str> = path.split('.').collect();
    let last = keys.pop().unwrap_or_default();
    let mut place = table;
    for key in keys {
        let entry = place.entry(key).or_insert_with(|| Value::Table(Table::new()));
        place = entry
            .as_table_mut()
            .with_context(|| format!("{path}: {key} is a value, not a section"))?;
    }
    if last == "kind" && place.get(last).is_some_and(|known| *known != value) {
        place.clear();
    }
    place.insert(last.to_string(), value);
    Ok(())
}

/// All values that are not tables, under their dotted names.
fn leaves(table: &Table) -> BTreeMap<String, Value> {
    fn walk(prefix: &str, table: &Table, found: &mut BTreeMap<String, Value>) {
        for (key, value) in table {
            let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                Value::Table(inner) => walk(&name, inner, found),
                other => {
                    found.insert(name, other.clone());
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    walk("", table, &mut found);
    found
}
