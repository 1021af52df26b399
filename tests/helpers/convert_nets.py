"""Small nets with ``nn.LSTM`` inside, each built like a well-known kind of net."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class ConvolutionalEncoder(nn.Module):
    """Like Tacotron's encoder: characters, convolutions, a bidirectional LSTM on packed rows."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.convolutions = nn.Sequential(
            nn.Conv1d(8, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU()
        )
        self.lstm = nn.LSTM(8, 5, batch_first=True, bidirectional=True)

    def forward(self, characters, lengths):
        x = self.convolutions(self.embedding(characters).transpose(1, 2)).transpose(1, 2)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]

    def example(self):
        return torch.randint(11, (3, 7)), torch.tensor([4, 7, 2])


class AttentiveDecoder(nn.Module):
    """Like Tacotron's decoder: single steps, an explicit state; each output is the next input."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4 + 6, 5, num_layers=2)
        self.query, self.out = nn.Linear(5, 6), nn.Linear(5 + 6, 4)

    def forward(self, memory):
        frame, context = memory.new_zeros(memory.size(1), 4), memory.mean(0)
        state, frames = None, []
        for _ in range(5):
            h, state = self.lstm(torch.cat([frame, context], 1).unsqueeze(0), state)
            weights = torch.einsum("bi,tbi->tb", self.query(h[0]), memory).softmax(0)
            context = torch.einsum("tb,tbi->bi", weights, memory)
            frame = self.out(torch.cat([h[0], context], 1))
            frames.append(frame)
        return torch.stack(frames)

    def example(self):
        return (torch.randn(4, 3, 6),)


class SpeechRecogniser(nn.Module):
    """Like Deep Speech 2: a strided convolution, then layers whose two directions are summed."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(
            nn.LSTM(size, 6, bias=False, bidirectional=True) for size in (10, 6, 6)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(6) for _ in self.layers)
        self.out = nn.Linear(6, 9)

    def forward(self, spectrogram):  # (B, frequencies, T)
        x = self.convolution(spectrogram.unsqueeze(1)).relu().flatten(1, 2).permute(2, 0, 1)
        for lstm, norm in zip(self.layers, self.norms, strict=True):
            x = lstm(x)[0].unflatten(2, (2, 6)).sum(2)
            x = norm(x.permute(1, 2, 0)).permute(2, 0, 1)
        return self.out(x).log_softmax(2)

    def example(self):
        return (torch.randn(3, 10, 12),)


class LanguageModel(nn.Module):
    """Dropout between the layers, and one matrix that both embeds and scores words."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(13, 6)
        self.dropout = nn.Dropout(0.3)
        self.lstm = nn.LSTM(6, 10, num_layers=3, dropout=0.4, proj_size=6)
        self.out = nn.Linear(6, 13)
        self.out.weight = self.embedding.weight

    def forward(self, words):
        return self.out(self.dropout(self.lstm(self.dropout(self.embedding(words)))[0]))

    def example(self):
        return (torch.randint(13, (8, 3)),)


class Separator(nn.Module):
    """Like a net that masks a spectrogram: a block of two layers is registered and called twice."""

    def __init__(self):
        super().__init__()
        along_time = nn.LSTM(4, 4, batch_first=True)
        along_time.weight_hh_l0.requires_grad_(False)
        self.first = nn.ModuleDict({"time": along_time, "bands": nn.LSTM(4, 4)})
        self.second = nn.ModuleDict({"time": along_time, "bands": nn.LSTM(4, 4)})
        self.second["bands"].weight_ih_l0 = self.first["bands"].weight_ih_l0

    def forward(self, x):  # (bands, T, 4)
        for block in (self.first, self.second):
            x = x + block["time"](x)[0]
            x = x + block["bands"](x)[0]
        return x.sigmoid()

    def example(self):
        return (torch.randn(5, 6, 4),)


NETS = [ConvolutionalEncoder, AttentiveDecoder, SpeechRecogniser, LanguageModel, Separator]
# These nets call each layer once per forward, so their first call from zero equals nn.LSTM's.
ONCE = [ConvolutionalEncoder, SpeechRecogniser, LanguageModel]
