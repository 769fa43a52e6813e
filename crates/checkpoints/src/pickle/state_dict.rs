//! Recognising the tensors of a checkpoint in its pickle.
//!
//! Torch pickles a tensor as a call of one of the functions of `torch/_utils.py`
//! with a reference to a storage, which lies in the archive under its key.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::element::storage_dtype;
use crate::slab::{MAX_RANK, MAX_TENSORS, View};

use super::{Id, Object, Pickle};

/// Where a checkpoint's weights are, best first: Lightning and most others,
/// LlamaGen's DDP trainer, DeepSpeed.
const SECTIONS: [&str; 3] = ["state_dict", "model", "module"];
/// The longest name of a tensor.
const MAX_NAME_BYTES: usize = 1 << 12;
/// How many wrappers (parameter, subclass) a tensor may have around it.
const MAX_WRAPPERS: usize = 4;

/// The tensors of a checkpoint.
#[derive(Debug)]
pub(crate) struct StateDict {
    /// The entry of the top-level dict that holds them.
    pub(crate) section: Option<String>,
    /// What each name has: a tensor, or `None` for anything else.
    pub(crate) entries: BTreeMap<String, Option<StoredTensor>>,
}

/// A view of a storage.
#[derive(Debug, PartialEq)]
pub(crate) struct StoredTensor {
    /// The storage's name in the archive.
    pub(crate) storage: Rc<str>,
    pub(crate) view: View,
}

/// Finds the state dict: under one of [`SECTIONS`], else the value itself.
///
/// # Errors
/// When the pickle is of no dict, or a name is too long.
pub(crate) fn find(pickle: &Pickle) -> Result<StateDict, String> {
    let Object::Dict(top) = pickle.root() else {
        return Err("the checkpoint is not a dict of tensors".to_string());
    };
    let section = SECTIONS.iter().find_map(|&name| {
        // As in Python, the last of equal keys counts.
        let (_, id) = top.iter().rev().find(|(key, _)| pickle.text(*key) == Some(name))?;
        match pickle.get(*id) {
            Object::Dict(items) => Some((name.to_string(), items)),
            _ => None,
        }
    });
    let (section, items) = match section {
        Some((name, items)) => (Some(name), items),
        None => (None, top),
    };
    let mut entries = BTreeMap::new();
    for &(key, value) in items {
        let Some(name) = pickle.text(key) else { continue };
        if name.len() > MAX_NAME_BYTES {
            return Err(format!(
                "a tensor's name has {} bytes; the limit is {MAX_NAME_BYTES}",
                name.len()
            ));
        }
        entries.insert(name.to_string(), stored_tensor(pickle, value));
        if entries.len() > MAX_TENSORS {
            return Err(format!("the state dict has more than {MAX_TENSORS} entries"));
        }
    }
    Ok(StateDict { section, entries })
}

/// The tensor that `id` stands for, if it does.
fn stored_tensor(pickle: &Pickle, id: Id) -> Option<StoredTensor> {
    let Object::Call { function, args } = pickle.get(id) else { return None };
    let (mut function, mut args) = (*function, *args);
    for _ in 0..MAX_WRAPPERS {
        match (global(pickle, function)?, sequence(pickle, args)?) {
            // (storage, offset, sizes, strides, requires_grad, hooks, ...)
            (
                ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor"),
                &[storage, offset, sizes, strides, ..],
            ) => {
                let (storage, dtype) = storage_of(pickle, storage)?;
                let view = View {
                    dtype,
                    offset: number(pickle, offset)?,
                    shape: numbers(pickle, sizes)?,
                    strides: numbers(pickle, strides)?,
                };
                return Some(StoredTensor { storage, view });
            }
            // (tensor, requires_grad, hooks, ...)
            (
                ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state"),
                &[tensor, ..],
            ) => match pickle.get(tensor) {
                Object::Call { function: f, args: a } => (function, args) = (*f, *a),
                _ => return None,
            },
            // (function, type, args, state)
            (("torch._tensor", "_rebuild_from_type_v2"), &[f, _, a, ..]) => {
                (function, args) = (f, a)
            }
            _ => return None,
        }
    }
    None
}

/// The key and element type of `("storage", class, key, location, numel)`. The
/// location (a CUDA device, say) does not matter: the bytes are in the file.
fn storage_of(pickle: &Pickle, id: Id) -> Option<(Rc<str>, safetensors::Dtype)> {
    let Object::Persistent(reference) = pickle.get(id) else { return None };
    let &[tag, class, key, ..] = sequence(pickle, *reference)? else { return None };
    let Object::Str(key) = pickle.get(key) else { return None };
    match (pickle.text(tag)?, global(pickle, class)?) {
        ("storage", ("torch" | "torch.cuda", class)) => {
            Some((Rc::clone(key), storage_dtype(class)?))
        }
        _ => None,
    }
}

fn global(pickle: &Pickle, id: Id) -> Option<(&str, &str)> {
    match pickle.get(id) {
        Object::Global { module, name } => Some((module, name)),
        _ => None,
    }
}

fn sequence(pickle: &Pickle, id: Id) -> Option<&[Id]> {
    match pickle.get(id) {
        Object::Tuple(items) | Object::List(items) => Some(items),
        _ => None,
    }
}

fn number(pickle: &Pickle, id: Id) -> Option<u64> {
    match pickle.get(id) {
        Object::Int(value) => u64::try_from(*value).ok(),
        _ => None,
    }
}

/// Sizes or strides, written as a tuple or as `torch.Size((...))`.
fn numbers(pickle: &Pickle, id: Id) -> Option<Vec<u64>> {
    let items = match pickle.get(id) {
        Object::Call { function, args } if global(pickle, *function)? == ("torch", "Size") => {
            sequence(pickle, *sequence(pickle, *args)?.first()?)?
        }
        _ => sequence(pickle, id)?,
    };
    if items.len() > MAX_RANK {
        return None;
    }
    items.iter().map(|&item| number(pickle, item)).collect()
}
