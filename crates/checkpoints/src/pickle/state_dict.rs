//! Recognising the tensors of a checkpoint in its pickle.
//!
//! Torch pickles a tensor as a call of one of the functions of `torch/_utils.py`
//! with a reference to a storage, which lies in the archive under its key. The
//! globals named in this file are all that mean anything; any other makes a
//! value that is passed over.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use safetensors::Dtype;

use crate::element::{scalar_dtype, storage_dtype, storage_width};
use crate::slab::{MAX_RANK, MAX_TENSORS, View};

use super::{Id, Object, Pickle};

/// Where a checkpoint's weights are, best first: Lightning and most others,
/// LlamaGen's DDP trainer, DeepSpeed.
const SECTIONS: [&str; 3] = ["state_dict", "model", "module"];
/// Where LlamaGen's trainers keep the moving average of the weights.
const AVERAGED: &str = "ema";
/// The longest name of a tensor.
const MAX_NAME_BYTES: usize = 1 << 12;
/// How many wrappers (parameter, subclass) a tensor may have around it.
const MAX_WRAPPERS: usize = 4;

/// Which of a checkpoint's weights are wanted, where it has several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Weights {
    /// Those that were being trained.
    #[default]
    Trained,
    /// Their moving average (`ema`), where there is one.
    Averaged,
}

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
pub(crate) fn find(pickle: &Pickle, weights: Weights) -> Result<StateDict, String> {
    let Object::Dict(top) = pickle.root() else {
        return Err("the checkpoint is not a dict of tensors".to_string());
    };
    let averaged_first = [&[AVERAGED][..], &SECTIONS].concat();
    let averaged_last = [&SECTIONS[..], &[AVERAGED]].concat();
    let sections = match weights {
        Weights::Trained => averaged_last,
        Weights::Averaged => averaged_first,
    };
    let section = sections.into_iter().find_map(|name| {
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

/// The bytes of an element of every storage that the pickle refers to, those of
/// the optimiser too.
///
/// # Errors
/// When a storage is of a class that is not known, or of two.
pub(crate) fn storage_widths(pickle: &Pickle) -> Result<HashMap<Rc<str>, u64>, String> {
    let mut widths = HashMap::new();
    for object in pickle.objects() {
        let Object::Persistent(reference) = object else { continue };
        let Some(storage) = storage_of(pickle, *reference) else { continue };
        let Some(width) = storage_width(storage.class) else {
            return Err(format!("storages of class {:.80?} are not known", storage.class));
        };
        if widths.insert(Rc::clone(storage.key), width).is_some_and(|before| before != width) {
            return Err(format!("storage {:.80?} has elements of two sizes", storage.key));
        }
    }
    Ok(widths)
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
                let storage = persistent_storage(pickle, storage)?;
                let dtype = storage_dtype(storage.class)?;
                return view(pickle, storage, dtype, [offset, sizes, strides]);
            }
            // (storage, offset, sizes, strides, requires_grad, hooks, dtype, ...): for
            // element types that have no class of storages.
            (
                ("torch._utils", "_rebuild_tensor_v3"),
                &[storage, offset, sizes, strides, _, _, dtype, ..],
            ) => {
                let ("torch", dtype) = global(pickle, dtype)? else { return None };
                let storage = persistent_storage(pickle, storage)?;
                return view(pickle, storage, scalar_dtype(dtype)?, [offset, sizes, strides]);
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

fn view(
    pickle: &Pickle,
    storage: StorageReference,
    dtype: Dtype,
    [offset, sizes, strides]: [Id; 3],
) -> Option<StoredTensor> {
    let view = View {
        dtype,
        offset: number(pickle, offset)?.checked_add(storage.offset)?,
        shape: numbers(pickle, sizes)?,
        strides: numbers(pickle, strides)?,
    };
    Some(StoredTensor { storage: Rc::clone(storage.key), view })
}

/// `("storage", class, key, location, numel)`, in the legacy format with a view
/// `None` or `(view key, offset, numel)` at the end: torch before 0.4 had
/// storages that were parts of others. The location (a CUDA device, say) does
/// not matter: the bytes are in the file.
struct StorageReference<'a> {
    class: &'a str,
    key: &'a Rc<str>,
    /// In elements.
    offset: u64,
}

fn storage_of(pickle: &Pickle, reference: Id) -> Option<StorageReference<'_>> {
    let &[tag, class, key, _, _, ref view @ ..] = sequence(pickle, reference)? else {
        return None;
    };
    let Object::Str(key) = pickle.get(key) else { return None };
    let ("torch" | "torch.cuda" | "torch.storage", class) = global(pickle, class)? else {
        return None;
    };
    let offset = match view.first() {
        Some(&view) => match sequence(pickle, view) {
            Some(&[_, offset, _]) => number(pickle, offset)?,
            _ => 0,
        },
        None => 0,
    };
    (pickle.text(tag)? == "storage").then_some(StorageReference { class, key, offset })
}

fn persistent_storage(pickle: &Pickle, id: Id) -> Option<StorageReference<'_>> {
    match pickle.get(id) {
        Object::Persistent(reference) => storage_of(pickle, *reference),
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
