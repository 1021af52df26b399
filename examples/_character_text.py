"""Real text that every CPython contains: the help pages of the language, as rows of characters.

A batch has B rows: row b reads its own 1/B of the text from start to end, so window k + 1 continues
window k in every row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pydoc_data import topics

import torch
from torch import Tensor

HELD_OUT = 0.1  # the last tenth of the text is never trained on


@dataclass
class Text:
    """The characters used, and the two parts of the text as numbers: (characters,) each."""

    alphabet: str
    training: Tensor
    held_out: Tensor

    def encode(self, string: str) -> Tensor:
        number = {character: i for i, character in enumerate(self.alphabet)}
        return torch.tensor([number[character] for character in string])

    def decode(self, numbers: list[int]) -> str:
        return "".join(self.alphabet[number] for number in numbers)


def load_text() -> Text:
    """All help topics in alphabetical order, split into training and held-out text.

    Some topics repeat parts of others word for word. A paragraph of the held-out text is taken out
    of the training text, so that knowing it by heart does not count as prediction.
    """
    whole = "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    cut = whole.index("\n\n", int(len(whole) * (1 - HELD_OUT)))
    held_out = whole[cut:]
    repeated = {paragraph for paragraph in held_out.split("\n\n") if len(paragraph) > 40}
    kept = [paragraph for paragraph in whole[:cut].split("\n\n") if paragraph not in repeated]

    text = Text("".join(sorted(set(whole))), torch.empty(0), torch.empty(0))
    text.training = text.encode("\n\n".join(kept))
    text.held_out = text.encode(held_out)
    return text


class Windows:
    """The text cut into windows, (window, batch) of inputs and of next characters."""

    def __init__(self, text: Tensor, batch: int, window: int) -> None:
        per_row = (len(text) - 1) // batch // window * window
        # Time first, as the layer wants it: (per_row, batch).
        self.inputs = text[: batch * per_row].view(batch, per_row).t().contiguous()
        self.targets = text[1 : batch * per_row + 1].view(batch, per_row).t().contiguous()
        self.window = window

    def __len__(self) -> int:
        return len(self.inputs) // self.window

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
        steps = slice(k * self.window, (k + 1) * self.window)
        return self.inputs[steps], self.targets[steps]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[k] for k in range(len(self)))
