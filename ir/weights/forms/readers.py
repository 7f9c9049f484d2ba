"""The readers of packed weights."""

from onnx_compress.ir.weights.forms import blocked, nbits, packed, picked
from onnx_compress.ir.weights.forms.base import Reader
from onnx_compress.ir.weights.forms.packed import Packed, StoredBytes

PACKED_READERS: dict[str, Reader[Packed, StoredBytes]] = {
    reader.name: reader for reader in (packed.READER, picked.READER, nbits.READER, blocked.READER)
}
