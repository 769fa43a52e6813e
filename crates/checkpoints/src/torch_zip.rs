//! What `torch.save` writes since torch 1.6: a zip archive with a pickle,
//! `NAME/data.pkl`, and the bytes of each storage, `NAME/data/KEY`.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;
use std::rc::Rc;

use crate::error::{Error, Result};
use crate::pickle;
use crate::pickle::state_dict::{self, Weights};
use crate::slab::Slab;
use crate::tensor_file::{Contents, FileKind};
use crate::zip_directory::{Extent, ZipDirectory, read_at};

const PICKLE_ENTRY: &str = "/data.pkl";
const TORCHSCRIPT_ENTRY: &str = "/constants.pkl";

/// Reads the names and places of a checkpoint's tensors. Storages are not read,
/// and those of the optimiser not even looked up.
pub(crate) fn read(
    path: &Path,
    file: &mut File,
    file_bytes: u64,
    weights: Weights,
) -> Result<Contents> {
    let directory = ZipDirectory::read(path, file, file_bytes)?;
    let name = archive_name(path, &directory)?;
    let mut archive = Archive { path, file, file_bytes, directory, name };
    archive.check_byte_order()?;
    let pickle = archive.pickle()?;
    let found = state_dict::find(&pickle, weights).map_err(|reason| Error::format(path, reason))?;

    let mut storages: HashMap<Rc<str>, Extent> = HashMap::new();
    let mut slabs = BTreeMap::new();
    let mut skipped = Vec::new();
    for (name, tensor) in found.entries {
        let Some(tensor) = tensor else {
            skipped.push(name);
            continue;
        };
        let extent = match storages.get(&tensor.storage) {
            Some(extent) => *extent,
            None => {
                let extent =
                    archive.entry(&format!("data/{}", tensor.storage))?.ok_or_else(|| {
                        let reason = format!(
                            "tensor {name:?} needs storage {:?}, which is not in the archive",
                            tensor.storage
                        );
                        Error::format(path, reason)
                    })?;
                storages.insert(tensor.storage, extent);
                extent
            }
        };
        let slab = Slab::from_view(&tensor.view, extent.start, extent.bytes)
            .map_err(|reason| Error::format(path, format!("tensor {name:?}: {reason}")))?;
        slabs.insert(name, slab);
    }
    Ok(Contents {
        kind: FileKind::TorchZip,
        section: found.section,
        slabs,
        metadata: BTreeMap::new(),
        skipped,
    })
}

/// The folder that all entries are in: the file's first name, usually.
fn archive_name(path: &Path, directory: &ZipDirectory) -> Result<String> {
    if directory.names().any(|name| name.ends_with(TORCHSCRIPT_ENTRY)) {
        return Err(Error::format(path, "is a TorchScript archive, which is not read"));
    }
    let mut pickles = directory.names().filter_map(|name| name.strip_suffix(PICKLE_ENTRY));
    match (pickles.next(), pickles.next()) {
        (Some(name), None) => Ok(name.to_string()),
        _ => {
            let reason = "is a zip archive, but not a torch checkpoint: \
                          it should have exactly one entry `NAME/data.pkl`";
            Err(Error::format(path, reason))
        }
    }
}

struct Archive<'a> {
    path: &'a Path,
    file: &'a mut File,
    file_bytes: u64,
    directory: ZipDirectory,
    name: String,
}

impl Archive<'_> {
    fn entry(&mut self, name: &str) -> Result<Option<Extent>> {
        let name = format!("{}/{name}", self.name);
        self.directory.extent(self.path, self.file, self.file_bytes, &name)
    }

    fn pickle(&mut self) -> Result<pickle::Pickle> {
        let damaged = |reason: String| Error::format(self.path, reason);
        let Some(extent) = self.entry("data.pkl")? else {
            return Err(damaged("the archive has no data.pkl".to_string()));
        };
        let limit = pickle::MAX_PICKLE_BYTES;
        Error::check_limit(self.path, "the pickle (bytes)", extent.bytes, limit)?;
        let bytes = read_at(self.path, self.file, extent.start, extent.bytes as usize)?;
        pickle::parse(&bytes)
            .map_err(|e| Error::format(self.path, format!("the checkpoint's pickle, {e}")))
    }

    /// Machines of the other byte order say so since torch 2.1.
    fn check_byte_order(&mut self) -> Result<()> {
        let Some(extent) = self.entry("byteorder")? else { return Ok(()) };
        if extent.bytes == 3 && read_at(self.path, self.file, extent.start, 3)? == b"big" {
            let reason = "was written by a big-endian machine, which is not read: \
                          load and save it with torch on this machine";
            return Err(Error::format(self.path, reason));
        }
        Ok(())
    }
}
