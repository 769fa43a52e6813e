//! What `torch.save` wrote before torch 1.6, and LPIPS' published heads still are:
//! no archive, but five pickles one after another, then the storages.
//!
//! | part | content |
//! |---|---|
//! | pickle | the magic number |
//! | pickle | 1001, the version of the protocol |
//! | pickle | `{"little_endian": True, ...}`: the machine it was written on |
//! | pickle | the checkpoint, with references to storages |
//! | pickle | the keys of the storages, in the order they follow |
//! | each storage | its number of elements (i64), then the elements |
//!
//! The bytes of a storage say nothing of their width: that is in the references.
//! Source: `torch/serialization.py`, `_legacy_save`.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;
use std::rc::Rc;

use crate::error::{Error, Result};
use crate::pickle::state_dict::{self, Weights};
use crate::pickle::{self, MAX_PICKLE_BYTES, Object, Pickle};
use crate::slab::{MAX_TENSORS, Slab};
use crate::tensor_file::{Contents, FileKind};
use crate::zip_directory::{Extent, read_at};

/// A pickled `0x1950a86a20f9469cfc6c`, with which every legacy checkpoint begins
/// (`torch/serialization.py`, `MAGIC_NUMBER`), after the two bytes that name the
/// pickle protocol.
pub(crate) const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
const PROTOCOL_BYTES: usize = 2;
const PROTOCOL_VERSION: i64 = 1001;
/// The most storages: every tensor has one, and the optimiser has two more.
const MAX_STORAGES: usize = 4 * MAX_TENSORS;
const COUNT_BYTES: usize = 8;

/// Whether a file that begins with `head` is one.
pub(crate) fn is_one(head: &[u8]) -> bool {
    head.get(PROTOCOL_BYTES..).is_some_and(|rest| rest.starts_with(MAGIC))
}

/// Reads the names and places of a checkpoint's tensors. Of the storages only
/// their sizes are read, to find where the next one begins.
pub(crate) fn read(
    path: &Path,
    file: &mut File,
    file_bytes: u64,
    weights: Weights,
) -> Result<Contents> {
    let damaged = |reason: String| Error::format(path, reason);
    // The pickles have no stated length. What is read beyond them is little
    // beside the tensors, and is dropped before those are read.
    let head = read_at(path, file, 0, file_bytes.min(MAX_PICKLE_BYTES) as usize)?;
    let mut pickles = Pickles { bytes: &head, start: 0 };
    pickles.next("magic number").map_err(damaged)?;
    let version = pickles.next("protocol version").map_err(damaged)?;
    if *version.root() != Object::Int(PROTOCOL_VERSION) {
        let reason = format!("the legacy torch format {:?} is not known", version.root());
        return Err(damaged(reason));
    }
    check_byte_order(&pickles.next("machine").map_err(damaged)?).map_err(damaged)?;
    let checkpoint = pickles.next("checkpoint").map_err(damaged)?;
    let keys = pickles.next("list of storages").map_err(damaged)?;
    let start = pickles.start as u64;
    drop(head);

    let widths = state_dict::storage_widths(&checkpoint).map_err(damaged)?;
    let storages = storages(path, file, (start, file_bytes), &keys, &widths)?;
    let found = state_dict::find(&checkpoint, weights).map_err(damaged)?;
    let mut slabs = BTreeMap::new();
    let mut skipped = Vec::new();
    for (name, tensor) in found.entries {
        let Some(tensor) = tensor else {
            skipped.push(name);
            continue;
        };
        let Some(extent) = storages.get(&tensor.storage) else {
            let reason = format!(
                "tensor {name:?} needs storage {:?}, which is not in the file",
                tensor.storage
            );
            return Err(damaged(reason));
        };
        let slab = Slab::from_view(&tensor.view, extent.start, extent.bytes)
            .map_err(|reason| damaged(format!("tensor {name:?}: {reason}")))?;
        slabs.insert(name, slab);
    }
    Ok(Contents {
        kind: FileKind::LegacyTorch,
        section: found.section,
        slabs,
        metadata: BTreeMap::new(),
        skipped,
    })
}

/// The pickles at the beginning of a file.
struct Pickles<'a> {
    bytes: &'a [u8],
    start: usize,
}

impl Pickles<'_> {
    fn next(&mut self, what: &str) -> std::result::Result<Pickle, String> {
        let rest = self.bytes.get(self.start..).unwrap_or_default();
        let parsed = pickle::parse(rest)
            .map_err(|e| format!("the checkpoint's pickle ({what}, at {}), {e}", self.start))?;
        self.start += parsed.bytes();
        Ok(parsed)
    }
}

fn check_byte_order(machine: &Pickle) -> std::result::Result<(), String> {
    let Object::Dict(facts) = machine.root() else {
        return Err("the legacy torch format's machine is not described".to_string());
    };
    let big = facts.iter().any(|&(key, value)| {
        machine.text(key) == Some("little_endian") && *machine.get(value) == Object::Bool(false)
    });
    if big {
        return Err("was written by a big-endian machine, which is not read: \
                    load and save it with torch on this machine"
            .to_string());
    }
    Ok(())
}

/// Where each storage lies; `within` is where the first begins and the file ends.
fn storages(
    path: &Path,
    file: &mut File,
    within: (u64, u64),
    keys: &Pickle,
    widths: &HashMap<Rc<str>, u64>,
) -> Result<HashMap<Rc<str>, Extent>> {
    let damaged = |reason: String| Error::format(path, reason);
    let Object::List(keys_in_order) = keys.root() else {
        return Err(damaged("the legacy torch format has no list of storages".to_string()));
    };
    let count = keys_in_order.len() as u64;
    Error::check_limit(path, "the number of storages", count, MAX_STORAGES as u64)?;
    let (mut at, end) = within;
    let mut storages = HashMap::with_capacity(keys_in_order.len());
    for &id in keys_in_order {
        let Object::Str(key) = keys.get(id) else {
            return Err(damaged("a storage's key is not a string".to_string()));
        };
        let cut = || damaged(format!("is cut short in storage {key:?}: get it again"));
        if at.checked_add(COUNT_BYTES as u64).is_none_or(|count_end| count_end > end) {
            return Err(cut());
        }
        let count = read_at(path, file, at, COUNT_BYTES)?;
        let count = count.first_chunk().map(|&bytes| i64::from_le_bytes(bytes));
        let Some(width) = widths.get(key) else {
            let reason = format!("nothing says what elements storage {key:?} has");
            return Err(damaged(reason));
        };
        let bytes = count.and_then(|count| u64::try_from(count).ok()?.checked_mul(*width));
        let start = at + COUNT_BYTES as u64;
        let next = bytes.and_then(|bytes| start.checked_add(bytes)).filter(|&next| next <= end);
        let (Some(bytes), Some(next)) = (bytes, next) else { return Err(cut()) };
        if storages.insert(Rc::clone(key), Extent { start, bytes }).is_some() {
            return Err(damaged(format!("two storages are named {key:?}")));
        }
        at = next;
    }
    Ok(storages)
}
