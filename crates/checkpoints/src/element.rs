//! Element types: from the bytes of a file to candle's tensors.

use std::io::{self, Read};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;

use crate::slab::element_bytes;

const BUFFER_BYTES: usize = 1 << 16;

/// The element type that candle holds a stored type in: its own where it has
/// one, the next wider otherwise (bool in u8, i8 in i16, u16 in u32), `None`
/// where no type holds every value.
pub(crate) fn candle_dtype(stored: Dtype) -> Option<DType> {
    Some(match stored {
        Dtype::BOOL | Dtype::U8 => DType::U8,
        Dtype::I8 | Dtype::I16 => DType::I16,
        Dtype::U16 | Dtype::U32 => DType::U32,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        _ => return None,
    })
}

/// The stored type of candle's `dtype`, `None` for those that are not written.
pub(crate) fn stored_dtype(dtype: DType) -> Option<Dtype> {
    Some(match dtype {
        DType::U8 => Dtype::U8,
        DType::I16 => Dtype::I16,
        DType::U32 => Dtype::U32,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        _ => return None,
    })
}

/// The stored type of a torch storage class (`FloatStorage`), by its name.
pub(crate) fn storage_dtype(class: &str) -> Option<Dtype> {
    Some(match class {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        "ComplexFloatStorage" => Dtype::C64,
        _ => return None,
    })
}

/// The bytes of an element of a torch storage class, those of element types that
/// are not read too.
pub(crate) fn storage_width(class: &str) -> Option<u64> {
    Some(match class {
        "ComplexDoubleStorage" => 16,
        "QInt32Storage" => 4,
        "QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage"
        | "UntypedStorage" => 1,
        other => element_bytes(storage_dtype(other)?)?,
    })
}

/// The stored type of torch's `torch.uint16`, by its name: those that have no
/// storage class.
pub(crate) fn scalar_dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        _ => return None,
    })
}

/// Reads a tensor of `shape` from `reader`, little-endian and row-major,
/// without holding its bytes a second time. `Ok(None)` when candle has no type
/// for its elements.
pub(crate) fn read_tensor(
    reader: &mut dyn Read,
    stored: Dtype,
    shape: &[usize],
    device: &Device,
) -> candle_core::Result<Option<Tensor>> {
    let n = shape.iter().product();
    let tensor = match stored {
        Dtype::BOOL | Dtype::U8 => Tensor::from_vec(elements(reader, n, |[b]| b)?, shape, device),
        Dtype::I8 => Tensor::from_vec(
            elements(reader, n, |b| i16::from(i8::from_le_bytes(b)))?,
            shape,
            device,
        ),
        Dtype::U16 => Tensor::from_vec(
            elements(reader, n, |b| u32::from(u16::from_le_bytes(b)))?,
            shape,
            device,
        ),
        Dtype::I16 => Tensor::from_vec(elements(reader, n, i16::from_le_bytes)?, shape, device),
        Dtype::U32 => Tensor::from_vec(elements(reader, n, u32::from_le_bytes)?, shape, device),
        Dtype::I32 => Tensor::from_vec(elements(reader, n, i32::from_le_bytes)?, shape, device),
        Dtype::I64 => Tensor::from_vec(elements(reader, n, i64::from_le_bytes)?, shape, device),
        Dtype::F16 => Tensor::from_vec(elements(reader, n, f16::from_le_bytes)?, shape, device),
        Dtype::BF16 => Tensor::from_vec(elements(reader, n, bf16::from_le_bytes)?, shape, device),
        Dtype::F32 => Tensor::from_vec(elements(reader, n, f32::from_le_bytes)?, shape, device),
        Dtype::F64 => Tensor::from_vec(elements(reader, n, f64::from_le_bytes)?, shape, device),
        _ => return Ok(None),
    };
    tensor.map(Some)
}

/// Reads `n` elements of `N` bytes.
pub(crate) fn elements<T, const N: usize>(
    reader: &mut dyn Read,
    n: usize,
    from_le_bytes: impl Fn([u8; N]) -> T,
) -> io::Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(n).map_err(io::Error::other)?;
    let mut buffer = [0; BUFFER_BYTES];
    let mut left = n;
    while left > 0 {
        let count = left.min(BUFFER_BYTES / N);
        let bytes = &mut buffer[..count * N];
        reader.read_exact(bytes)?;
        let (chunks, _) = bytes.as_chunks::<N>();
        values.extend(chunks.iter().map(|&chunk| from_le_bytes(chunk)));
        left -= count;
    }
    Ok(values)
}

/// Writes the elements of `tensor`, little-endian and row-major. The error for
/// a type that [`stored_dtype`] does not know is `Unsupported`.
pub(crate) fn write_tensor(tensor: &Tensor, writer: &mut dyn io::Write) -> io::Result<()> {
    macro_rules! write_as {
        ($type:ty) => {{
            let values = tensor
                .flatten_all()
                .and_then(|t| t.to_vec1::<$type>())
                .map_err(io::Error::other)?;
            let mut bytes = Vec::with_capacity(BUFFER_BYTES);
            for chunk in values.chunks(BUFFER_BYTES / size_of::<$type>()) {
                bytes.clear();
                bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
                writer.write_all(&bytes)?;
            }
            Ok(())
        }};
    }
    match tensor.dtype() {
        DType::U8 => write_as!(u8),
        DType::I16 => write_as!(i16),
        DType::U32 => write_as!(u32),
        DType::I32 => write_as!(i32),
        DType::I64 => write_as!(i64),
        DType::F16 => write_as!(f16),
        DType::BF16 => write_as!(bf16),
        DType::F32 => write_as!(f32),
        DType::F64 => write_as!(f64),
        other => Err(io::Error::new(io::ErrorKind::Unsupported, format!("{other:?}"))),
    }
}
