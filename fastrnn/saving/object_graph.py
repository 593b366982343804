"""The objects of a TensorFlow checkpoint: what belongs to what, by the attributes' names."""

from functools import cached_property

from fastrnn.errors import ModelFormatError
from fastrnn.saving.protobuf import Message
from fastrnn.saving.tensor_bundle import BundleArray, TensorBundle

KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
MAX_OBJECTS = 1_000_000

_VALUE = "VARIABLE_VALUE"


def root_object(bundle: TensorBundle) -> "TrackedObject":
    """Return the object that a checkpoint was made of.

    Raises
    ------
    ModelFormatError
        If the checkpoint does not tell of objects.
    """
    graph = bundle.string(KEY)
    if graph is None:
        raise ModelFormatError(
            f"{bundle.place} names variables and tells of no layers: it was written by TensorFlow 1, or by other code "
            "than Keras's; load it there and save the weights by Keras's save_weights"
        )
    objects = Message(graph, f"{bundle.place}, {KEY}", bundle.max_bytes).parts(1)
    if not objects or len(objects) > MAX_OBJECTS:
        raise ModelFormatError(
            f"{bundle.place} tells of {len(objects)} objects, expected 1 to {MAX_OBJECTS}"
        )
    return TrackedObject(bundle, objects, 0, ())


class TrackedObject:
    """A layer, a list or a variable of a checkpoint. Objects are found by name, never by walking all of them.

    Attributes
    ----------
    path : tuple of str
        The names of attributes that lead here.
    """

    def __init__(
        self, bundle: TensorBundle, objects: list[memoryview], number: int, path: tuple[str, ...]
    ) -> None:
        self._bundle = bundle
        self._objects = objects
        self._number = number
        self.path = path

    @property
    def place(self) -> str:
        """File and path, for messages."""
        return f"{self._bundle.place}, {'/'.join(self.path)[:200] or 'the model'}"

    @property
    def file_bytes(self) -> int:
        """int: the size of the checkpoint's files, or of the archive that they lie in."""
        return self._bundle.file_bytes

    @property
    def max_bytes(self) -> int:
        """int: how much of the files may be unpacked, and how much memory what is made of them may take."""
        return self._bundle.max_bytes

    @cached_property
    def _message(self) -> Message:
        return Message(self._objects[self._number], self.place, self._bundle.max_bytes)

    @cached_property
    def _children(self) -> dict[str, int]:
        """The objects' numbers by the attributes' names, in the order in which they were set."""
        children = {}
        for child in self._message.messages(1):
            number = child.number(1)
            if not 0 <= number < len(self._objects):
                raise ModelFormatError(
                    f"{self.place} tells of object {number} of {len(self._objects)}"
                )
            children[child.text(2)] = number
        return children

    def names(self) -> list[str]:
        """Return the names of the attributes."""
        return list(self._children)

    def child(self, name: str) -> "TrackedObject | None":
        """Return the object that an attribute holds, or None if there is none."""
        number = self._children.get(name)
        if number is None:
            return None
        return TrackedObject(self._bundle, self._objects, number, (*self.path, name))

    def variable(self) -> BundleArray | None:
        """Return the array of a variable, None for another object."""
        for attribute in self._message.messages(2):
            if attribute.text(1) == _VALUE:
                key = attribute.text(3)
                array = self._bundle.array(key)
                if array is None:
                    raise ModelFormatError(f"{self.place}: there is no array {key[:200]!r}")
                return array
        return None

    def variables(self) -> dict[str, BundleArray]:
        """Return the arrays of the variables that are attributes, by name."""
        found = {}
        for name in self._children:
            child = self.child(name)
            array = None if child is None else child.variable()
            if array is not None:
                found[name] = array
        return found
