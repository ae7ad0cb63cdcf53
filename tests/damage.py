"""Ways in which a file goes bad; ALL are those of a checkpoint."""

from ersparse.storage.checkpoints import CheckpointFiles


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def empty(path):
    path.write_bytes(b"")


def swap(path):
    """For the same epoch of another run, which is whole."""
    other = CheckpointFiles(path.parent / "other", "another run's hash/1")
    epoch = int(path.name[5:10])
    other.write({"epoch": epoch}, other.intended(epoch))
    (theirs,) = other.folder.glob("*.ckpt")
    theirs.rename(path.with_name(theirs.name))
    path.unlink()


def newer(path):
    path.rename(path.with_name(f"{path.name.split('.')[0]}.v3.ckpt"))


ALL = {damage.__name__: damage for damage in (truncate, flip_a_bit, zero, empty, swap, newer)}
