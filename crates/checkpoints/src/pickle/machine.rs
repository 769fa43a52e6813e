//! The stack machine: protocols 2 to 5, as far as values go.
//!
//! Instruction set: CPython's `Lib/pickletools.py`. What is missing is refused
//! by number: out-of-band buffers, extension codes, the text instructions of
//! protocol 0 and the instance instructions `INST` and `OBJ`, none of which
//! torch writes.

use std::collections::HashMap;

use super::cursor::Cursor;
use super::{Id, MAX_MARKS, MAX_OBJECTS, MAX_STACK, Object, Pickle, PickleError};

type Result<T> = std::result::Result<T, PickleError>;

/// Parses the pickle at the beginning of `bytes`.
///
/// # Errors
/// When it is cut short, asks for more than the limits allow, or contains an
/// instruction that no checkpoint needs.
pub(crate) fn parse(bytes: &[u8]) -> Result<Pickle> {
    let mut machine = Machine {
        input: Cursor::new(bytes),
        objects: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        copied: 0,
    };
    let root = loop {
        if let Some(root) = machine.step()? {
            break root;
        }
    };
    Ok(Pickle { objects: machine.objects, root, bytes: machine.input.position() })
}

struct Machine<'a> {
    input: Cursor<'a>,
    objects: Vec<Object>,
    stack: Vec<Id>,
    /// The heights of the stack at each mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// How many pairs were copied out of lists.
    copied: usize,
}

impl Machine<'_> {
    /// One instruction. Returns the root at the end.
    fn step(&mut self) -> Result<Option<Id>> {
        match self.input.u8()? {
            // PROTO, FRAME
            0x80 => drop(self.input.take(1)?),
            0x95 => drop(self.input.take(8)?),
            // STOP
            b'.' => return self.pop().map(Some),
            // MARK, POP, POP_MARK
            b'(' => self.mark()?,
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.make(Object::Opaque)?,
            0x88 => self.make(Object::Bool(true))?,
            0x89 => self.make(Object::Bool(false))?,
            // BININT, BININT1, BININT2
            b'J' => {
                let value = self.input.array().map(i32::from_le_bytes)?;
                self.make(Object::Int(value.into()))?;
            }
            b'K' => {
                let value = self.input.u8()?;
                self.make(Object::Int(value.into()))?;
            }
            b'M' => {
                let value = self.input.u16()?;
                self.make(Object::Int(value.into()))?;
            }
            // LONG1, LONG4
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            // BINFLOAT
            b'G' => {
                self.input.take(8)?;
                self.make(Object::Opaque)?;
            }
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
            0x8c => self.string(1)?,
            b'X' => self.string(4)?,
            0x8d => self.string(8)?,
            // SHORT_BINSTRING, BINSTRING, SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
            b'U' => self.bytes(1)?,
            b'T' => self.bytes(4)?,
            b'C' => self.bytes(1)?,
            b'B' => self.bytes(4)?,
            0x8e | 0x96 => self.bytes(8)?,
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.make(Object::Tuple(Vec::new()))?,
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.pop_mark()?;
                self.make(Object::Tuple(items))?;
            }
            // EMPTY_LIST, LIST, APPEND, APPENDS
            b']' => self.make(Object::List(Vec::new()))?,
            b'l' => {
                let items = self.pop_mark()?;
                self.make(Object::List(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            // EMPTY_DICT, DICT, SETITEM, SETITEMS
            b'}' => self.make(Object::Dict(Vec::new()))?,
            b'd' => {
                let items = self.pop_mark()?;
                self.make(Object::Dict(Vec::new()))?;
                self.set_items(&items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }
            // EMPTY_SET, ADDITEMS, FROZENSET
            0x8f => self.make(Object::Opaque)?,
            0x90 => drop(self.pop_mark()?),
            0x91 => {
                self.pop_mark()?;
                self.make(Object::Opaque)?;
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let module = self.input.line()?;
                let name = self.input.line()?;
                self.make(Object::Global { module, name })?;
            }
            0x93 => self.stack_global()?,
            // REDUCE, NEWOBJ, NEWOBJ_EX
            b'R' | 0x81 => self.call()?,
            0x92 => {
                self.pop()?;
                self.call()?;
            }
            // BUILD: the state of an object that we do not make.
            b'b' => drop(self.pop()?),
            // BINPERSID
            b'Q' => {
                let reference = self.pop()?;
                self.make(Object::Persistent(reference))?;
            }
            // BINPUT, LONG_BINPUT, MEMOIZE
            b'q' => {
                let slot = self.input.u8()?;
                self.put(slot.into())?;
            }
            b'r' => {
                let slot = self.input.u32()?;
                self.put(slot)?;
            }
            0x94 => {
                // At most MAX_OBJECTS of them.
                let slot = self.memo.len() as u32;
                self.put(slot)?;
            }
            // BINGET, LONG_BINGET
            b'h' => {
                let slot = self.input.u8()?;
                self.recall(slot.into())?;
            }
            b'j' => {
                let slot = self.input.u32()?;
                self.recall(slot)?;
            }
            other => {
                let reason = format!("instruction 0x{other:02x}, which no checkpoint needs");
                return Err(self.input.error(reason));
            }
        }
        Ok(None)
    }

    fn make(&mut self, object: Object) -> Result<()> {
        if self.objects.len() >= MAX_OBJECTS {
            return Err(self.input.error(format!("more than {MAX_OBJECTS} values")));
        }
        let id = Id(self.objects.len() as u32);
        self.objects.push(object);
        self.push(id)
    }

    fn push(&mut self, id: Id) -> Result<()> {
        if self.stack.len() >= MAX_STACK {
            return Err(self.input.error(format!("more than {MAX_STACK} values on the stack")));
        }
        self.stack.push(id);
        Ok(())
    }

    /// Takes the top value, which must lie above the last mark.
    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.input.error("takes a value from an empty stack"));
        }
        self.stack.pop().ok_or_else(|| self.input.error("takes a value from an empty stack"))
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().ok_or_else(|| self.input.error("the stack is empty"))
    }

    fn mark(&mut self) -> Result<()> {
        if self.marks.len() >= MAX_MARKS {
            return Err(self.input.error(format!("values nest deeper than {MAX_MARKS}")));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// Takes everything above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let Some(mark) = self.marks.pop() else {
            return Err(self.input.error("takes values down to a mark that is not there"));
        };
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn long(&mut self, width: u8) -> Result<()> {
        let length = self.input.length(width)?;
        let bytes = self.input.take(length)?;
        let object = if length > size_of::<i64>() {
            Object::Opaque
        } else {
            let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
            let mut wide = if negative { [0xff; 8] } else { [0; 8] };
            wide[..length].copy_from_slice(bytes);
            Object::Int(i64::from_le_bytes(wide))
        };
        self.make(object)
    }

    fn string(&mut self, width: u8) -> Result<()> {
        let length = self.input.length(width)?;
        let text = self.input.text(length)?;
        self.make(Object::Str(text))
    }

    /// Byte strings: Python 2 pickled its text so, hence kept where they are text.
    fn bytes(&mut self, width: u8) -> Result<()> {
        let length = self.input.length(width)?;
        let bytes = self.input.take(length)?;
        let text = std::str::from_utf8(bytes).ok().filter(|_| length <= super::MAX_STRING_BYTES);
        self.make(text.map_or(Object::Opaque, |text| Object::Str(text.into())))
    }

    fn tuple(&mut self, count: usize) -> Result<()> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.make(Object::Tuple(items))
    }

    fn append(&mut self, mut items: Vec<Id>) -> Result<()> {
        // Appending to what is no list (a deque, say) is part of an object that
        // we do not make.
        let top = self.top()?;
        if let Some(Object::List(list)) = self.objects.get_mut(top.0 as usize) {
            list.append(&mut items);
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.input.error("a dict has a key without a value"));
        }
        let top = self.top()?;
        if let Some(Object::Dict(dict)) = self.objects.get_mut(top.0 as usize) {
            dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
        }
        Ok(())
    }

    fn stack_global(&mut self) -> Result<()> {
        let name = self.pop()?;
        let module = self.pop()?;
        let text = |id: Id| match self.objects.get(id.0 as usize) {
            Some(Object::Str(text)) => Ok(text.clone()),
            _ => Err(self.input.error("a global's name is not a string")),
        };
        let (module, name) = (text(module)?, text(name)?);
        self.make(Object::Global { module, name })
    }

    /// Records a call. `OrderedDict()` is the one that is carried out, since
    /// the items of a state dict are put into its result.
    fn call(&mut self) -> Result<()> {
        let args = self.pop()?;
        let function = self.pop()?;
        let object = match self.objects.get(function.0 as usize) {
            Some(Object::Global { module, name })
                if &**module == "collections" && &**name == "OrderedDict" =>
            {
                let pairs = self.pairs(args);
                self.copied += pairs.len();
                if self.copied > MAX_OBJECTS {
                    return Err(self.input.error(format!("more than {MAX_OBJECTS} dict items")));
                }
                Object::Dict(pairs)
            }
            _ => Object::Call { function, args },
        };
        self.make(object)
    }

    /// The argument of `OrderedDict([[key, value], ...])`, as Python 2 wrote it.
    fn pairs(&self, args: Id) -> Vec<(Id, Id)> {
        let items = |id: Id| match self.objects.get(id.0 as usize) {
            Some(Object::Tuple(items) | Object::List(items)) => items.as_slice(),
            _ => &[],
        };
        let list = items(args).first().copied().map(items).unwrap_or_default();
        let pair = |&id: &Id| match *items(id) {
            [key, value] => Some((key, value)),
            _ => None,
        };
        list.iter().filter_map(pair).collect()
    }

    fn put(&mut self, slot: u32) -> Result<()> {
        let top = self.top()?;
        if self.memo.len() >= MAX_OBJECTS {
            return Err(self.input.error(format!("more than {MAX_OBJECTS} kept values")));
        }
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<()> {
        match self.memo.get(&slot) {
            Some(&id) => self.push(id),
            None => Err(self.input.error(format!("recalls value {slot}, which was not kept"))),
        }
    }
}

#[cfg(test)]
mod tests;
