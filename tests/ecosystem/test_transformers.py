"""Models of Hugging Face's transformers with an nn.LSTM inside: tiny ones, random weights."""

import copy

import pytest
import torch
from torch import nn

import stateful_lstm
from stateful_lstm import StatefulLSTM

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")


def layers(model):
    return [module for module in model.modules() if isinstance(module, nn.LSTM)]


def converted(model, stateful):
    count = len(layers(model))
    assert count
    ours = stateful_lstm.convert(copy.deepcopy(model), stateful=stateful)
    assert not layers(ours)
    assert sum(isinstance(module, StatefulLSTM) for module in ours.modules()) == count
    assert list(ours.state_dict()) == list(model.state_dict())
    return ours


def codec():
    """EnCodec: convolutions with weight_norm around an LSTM, in the encoder and in the decoder."""
    torch.manual_seed(0)
    config = transformers.EncodecConfig(
        num_filters=4, hidden_size=8, codebook_size=16, codebook_dim=8, upsampling_ratios=[4, 2]
    )
    return transformers.EncodecModel(config)


@pytest.mark.parametrize("stateful", [False, True])
def test_encodec_computes_what_it_did(stateful):
    model = codec().eval()
    ours = converted(model, stateful)
    x = torch.randn(2, 1, 64)
    for net in (model, ours):
        net.zero_grad()
        net.decoder(net.encoder(x)).square().mean().backward()
    torch.testing.assert_close(
        {name: p.grad for name, p in ours.named_parameters()},
        {name: p.grad for name, p in model.named_parameters()},
    )
    stateful_lstm.reset_state(ours)
    with torch.no_grad():
        got, expected = ours(x), model(x)
    assert torch.equal(got.audio_codes, expected.audio_codes)
    torch.testing.assert_close(got.audio_values, expected.audio_values)


def test_a_converted_model_is_saved_and_loaded(tmp_path):
    """What save_pretrained writes, the original class reads, and the other way round."""
    model = codec().eval()
    ours = converted(model, stateful=False)
    ours.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert layers(loaded)
    x = torch.randn(2, 1, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x).audio_values, ours(x).audio_values)
        again = stateful_lstm.convert(loaded, stateful=False)
        torch.testing.assert_close(again(x).audio_values, ours(x).audio_values)


def test_an_rnn_transducers_decoder_hands_its_states_over():
    """Parakeet's prediction network, token by token as it is used, its cache given in."""
    parakeet = pytest.importorskip("transformers.models.parakeet.modeling_parakeet")
    config = transformers.ParakeetRNNTConfig(
        vocab_size=9, decoder_hidden_size=6, num_decoder_layers=2, blank_token_id=8
    )
    torch.manual_seed(0)
    decoder = parakeet.ParakeetRNNTDecoder(config).eval()
    ours = converted(decoder, stateful=False)
    tokens = torch.tensor([[1, 3, 8, 2], [8, 5, 8, 7]])  # 8 is blank: that row's state stays
    torch.testing.assert_close(ours(tokens), decoder(tokens))
    outputs = []
    for net in (decoder, ours):
        cache = parakeet.ParakeetRNNTDecoderCache(config)
        with torch.no_grad():
            steps = [net(token, cache=cache).clone() for token in tokens.split(1, 1)]
        outputs.append((steps, cache.hidden_state, cache.cell_state))
    torch.testing.assert_close(*outputs)
