//! Pickles as data.
//!
//! A pickle is a program for a stack machine; Python runs it, and with it
//! whatever its author wanted run. Here the machine ([`machine`]) knows only
//! the instructions that build plain values; a global is its name, a call is a
//! record of who was to be called with what, and [`state_dict`] recognises the
//! few calls that stand for tensors. Everything else stays an inert object.
//!
//! Values live in one list and refer to each other by index, as Python's do by
//! reference: shared values stay shared, so no pickle can make much from little,
//! and neither building nor dropping them recurses, so no pickle nests too deep.

use std::rc::Rc;

mod cursor;
mod machine;
pub(crate) mod state_dict;

pub(crate) use machine::parse;

/// The largest pickle. That of a 1.4 billion parameter transformer with its
/// optimiser state is below 1 MB.
pub(crate) const MAX_PICKLE_BYTES: u64 = 1 << 25;
/// The most values that a pickle may make.
const MAX_OBJECTS: usize = 1 << 21;
/// The most values on the stack at a time.
const MAX_STACK: usize = 1 << 20;
/// The most open marks: how deep literals nest.
const MAX_MARKS: usize = 1 << 10;
/// The longest string.
const MAX_STRING_BYTES: usize = 1 << 20;

/// A value's place in [`Pickle::objects`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id(u32);

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Object {
    /// Numbers are all that tensors need; other scalars say nothing to us.
    Int(i64),
    Str(Rc<str>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// A dict or an `OrderedDict`, in order.
    Dict(Vec<(Id, Id)>),
    /// A class or function, by name.
    Global {
        module: Rc<str>,
        name: Rc<str>,
    },
    /// What calling `function` would have made. It is not called.
    Call {
        function: Id,
        args: Id,
    },
    /// A reference out of the pickle: torch's storages.
    Persistent(Id),
    Bool(bool),
    /// Nothing that matters: None, floats, bytes, huge integers.
    Opaque,
}

/// A parsed pickle.
#[derive(Debug)]
pub(crate) struct Pickle {
    objects: Vec<Object>,
    root: Id,
    bytes: usize,
}

impl Pickle {
    /// The value that the pickle is of.
    pub(crate) fn root(&self) -> &Object {
        self.get(self.root)
    }

    /// All values, in the order they were made.
    pub(crate) fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// The length of the pickle.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The value at `id`.
    pub(crate) fn get(&self, id: Id) -> &Object {
        // The machine makes every id from a place that it filled.
        self.objects.get(id.0 as usize).unwrap_or(&Object::Opaque)
    }

    /// The string at `id`, if it is one.
    pub(crate) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Object::Str(text) => Some(text),
            _ => None,
        }
    }
}

/// What is wrong with a pickle, and where.
#[derive(Debug, thiserror::Error)]
#[error("byte {position}: {reason}")]
pub(crate) struct PickleError {
    pub(crate) position: usize,
    pub(crate) reason: String,
}
