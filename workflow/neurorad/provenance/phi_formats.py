"""What a result file says in words, wherever its format lets words be put, and what it must not hold at all."""

import base64
import binascii
import gzip
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from neurorad.provenance.crate import CHECKOUT

BASE64 = re.compile(r"[A-Za-z0-9+/]{200,}={0,2}")
PRINTABLE = re.compile(rb"[\x20-\x7e]{6,}")
TEXT = (
    ".json",
    ".tsv",
    ".csv",
    ".txt",
    ".log",
    ".md",
    ".yaml",
    ".yml",
    ".html",
    ".svg",
    ".dot",
    ".rst",
    ".py",
    ".smk",
    "",
)
IMAGES = ((b"\x89PNG", ".png"), (b"RIFF", ".webp"), (b"\xff\xd8\xff", ".jpg"), (b"<svg", ".svg"), (b"<?xml", ".svg"))


@dataclass
class Content:
    """`texts`: (where in the file, text); `faults`: what the format must not hold, whatever it says."""

    texts: list[tuple[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, where: str, inner: "Content") -> None:
        """Take in what a file inside of this one holds."""
        self.texts += [(f"{where} {place}".strip(), text) for place, text in inner.texts]
        self.faults += [f"{where} {fault}".strip() for fault in inner.faults]


def read_content(name: str, data: bytes) -> Content:
    """The words and faults of one file, by its suffix; a format that cannot be read is a fault."""
    suffix = next(
        (end for end in (".nii.gz",) if name.endswith(end)), "." + name.rpartition(".")[2] if "." in name else ""
    )
    if data[128:132] == b"DICM":
        return Content(faults=["a DICOM file"])
    if not data:
        return Content()
    try:
        if name.startswith("events.out.tfevents."):
            # Records of TensorBoard: what they name is plain text between the numbers.
            return _text(data.decode("latin-1").encode())
        if suffix in TEXT:
            return _text(data)
        if suffix in READERS:
            return READERS[suffix](data)
    except Exception as problem:  # A damaged file must not end the audit, nor pass it.
        return Content(faults=[f"a {suffix} file that cannot be read ({type(problem).__name__})"])
    return Content(faults=[f"a format that the audit does not read ({suffix})"])


def _text(data: bytes) -> Content:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return Content(faults=["no UTF-8 text"])
    content = Content()

    def embedded(match: re.Match[str]) -> str:
        try:
            inner = base64.b64decode(match[0] + "=" * (-len(match[0]) % 4))
        except (binascii.Error, ValueError):
            return match[0]
        for magic, suffix in IMAGES:
            if inner.startswith(magic):
                content.add(
                    f"picture on line {text.count(chr(10), 0, match.start()) + 1}:", read_content(suffix, inner)
                )
                return ""
        return match[0]

    content.texts.append(("", BASE64.sub(embedded, text)))
    return content


def _png(data: bytes) -> Content:
    content, place = Content(), 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length
        match kind:
            case b"tEXt":
                content.texts.append(("PNG text", body.replace(b"\0", b" ").decode("latin-1")))
            case b"zTXt":
                key, _, rest = body.partition(b"\0")
                content.texts.append(("PNG text", (key + b" " + zlib.decompress(rest[1:])).decode("latin-1")))
            case b"iTXt":
                key, _, rest = body.partition(b"\0")
                packed, words = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
                content.texts.append(
                    ("PNG text", (key + b" " + (zlib.decompress(words) if packed else words)).decode("utf-8"))
                )
            case b"eXIf":
                content.faults.append("EXIF in a PNG")
            case b"tIME":
                content.faults.append("the time of writing in a PNG")
            case b"IEND":
                break
    if data[place:]:
        content.faults.append("bytes behind the end of a PNG")
    return content


def _webp(data: bytes) -> Content:
    content, place = Content(), 12
    while place + 8 <= len(data):
        kind, (length,) = data[place : place + 4], struct.unpack("<I", data[place + 4 : place + 8])
        if kind in (b"EXIF", b"XMP "):
            content.faults.append(f"{kind.decode().strip()} in a WebP")
        place += 8 + length + length % 2
    return content


def _jpeg(data: bytes) -> Content:
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    kinds = [key for key in ("exif", "comment", "xmp", "photoshop") if image.info.get(key)]
    return Content(faults=[f"{kind} in a JPEG" for kind in kinds])


def _gzip(data: bytes) -> Content:
    content = Content()
    if data[3] & 8:
        content.faults.append("the original's name in the gzip header")
    if data[3] & 16:
        content.faults.append("a comment in the gzip header")
    if data[4:8] != b"\0\0\0\0":
        content.faults.append("the original's time in the gzip header")
    return content


def _nifti(data: bytes) -> Content:
    import nibabel as nib

    content = _gzip(data) if data[:2] == b"\x1f\x8b" else Content()
    raw = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    kind = nib.Nifti2Image if struct.unpack("<i", raw[:4])[0] in (540, 469893120) else nib.Nifti1Image
    header = kind.from_bytes(raw).header
    for key in ("descrip", "aux_file", "db_name", "intent_name"):
        if key in header and header[key].item().strip(b"\0 "):
            content.faults.append(f"`{key}` of a NIfTI header is not empty")
    if header.extensions:
        content.faults.append("an extension behind a NIfTI header")
    return content


def _numpy(data: bytes) -> Content:
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.dtype.kind == "M":
        return Content(faults=["an array of dates"])
    return Content(texts=[("", "\n".join(np.unique(array.astype(str))))] if array.dtype.kind in "US" else [])


def _zip(data: bytes) -> Content:
    content = Content()
    with zipfile.ZipFile(io.BytesIO(data)) as members:
        for member in members.infolist():
            content.texts.append(("member name", member.filename))
            inner = members.read(member)
            if member.filename.endswith(".npy"):
                content.add(f"{member.filename}:", _numpy(inner))
            elif member.filename.endswith(".pkl"):
                words = b"\n".join(PRINTABLE.findall(inner)).decode("ascii")
                content.texts.append((f"{member.filename}:", words))
    return content


def _parquet(data: bytes) -> Content:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(data))
    content = Content(texts=[("column names", "\n".join(table.column_names))])
    for key, value in (table.schema.metadata or {}).items():
        content.texts.append((f"metadata {key.decode('utf-8', 'replace')}:", value.decode("utf-8", "replace")))
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_temporal(column.type):
            content.faults.append(f"a column of dates or times ({name})")
        elif (
            pa.types.is_string(column.type)
            or pa.types.is_large_string(column.type)
            or pa.types.is_dictionary(column.type)
        ):
            words = (str(value) for value in column.unique().to_pylist() if value is not None)
            content.texts.append((f"column {name}:", "\n".join(words)))
    return content


def _safetensors(data: bytes) -> Content:
    (length,) = struct.unpack("<Q", data[:8])
    return Content(texts=[("header", data[8 : 8 + length].decode("utf-8"))])


def _blosc2(data: bytes) -> Content:
    import blosc2

    # The array has to outlive its metadata, and the bytes the array.
    array = blosc2.ndarray_from_cframe(data, copy=True)
    held = array.schunk.vlmeta.getall()
    return Content(texts=[("metadata", "\n".join(f"{key} {value}" for key, value in held.items()))])


def _source(data: bytes) -> Content:
    """An archive of this program's own files; one that is not, byte by byte, is read like any other file."""
    content = Content()
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        for name in packed.namelist():
            member, own = packed.read(name), CHECKOUT / name
            if own.is_file() and own.read_bytes() == member:
                continue
            found = read_content(name.rpartition("/")[2], member)
            content.faults += [f"{name}: {fault}" for fault in found.faults]
            content.texts += [("its names:", name), *((f"{name} {where}", text) for where, text in found.texts)]
    return content


PDF_STREAM = re.compile(rb"<<((?:[^<>]|<<[^<>]*>>|<[0-9A-Fa-f]*>)*)>>\\s*stream\\r?\\n(.*?)\\r?\\nendstream", re.DOTALL)


def _pdf(data: bytes) -> Content:
    """What a PDF says of itself and what its pages spell out. A figure's own words are glyph numbers here: they are read in
    the SVG beside it."""
    if not data.startswith(b"%PDF"):
        return Content(faults=["no PDF"])
    content = Content()
    for head, body in PDF_STREAM.findall(data):
        if b"/Length1" not in head and b"/Image" not in head and b"/FlateDecode" in head:
            body = zlib.decompress(body)
            content.texts.append(("PDF page", "\n".join(part.decode("ascii") for part in PRINTABLE.findall(body))))
    plain = PDF_STREAM.sub(b"", data)
    content.texts.append(("PDF", "\n".join(part.decode("ascii") for part in PRINTABLE.findall(plain))))
    return content


READERS: dict[str, Callable[[bytes], Content]] = {
    ".png": _png,
    ".webp": _webp,
    ".jpg": _jpeg,
    ".jpeg": _jpeg,
    ".nii": _nifti,
    ".nii.gz": _nifti,
    ".npy": _numpy,
    ".npz": _zip,
    ".pt": _zip,
    ".pth": _zip,
    ".ckpt": _zip,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
    ".b2nd": _blosc2,
    ".pdf": _pdf,
    ".zip": _source,
}
