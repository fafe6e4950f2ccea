from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

import policies
from policies.errors import BadInput, UnknownName
from policies.llm_agent import LLMAgent

INFO = {"action_labels": ("blue", "green"), "prompt_format": "text"}


@pytest.fixture
def folder(llama: tf.PreTrainedModel, tokenizer: tf.PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    llama.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_folder_loads_by_name_and_acts_as_the_original(
    folder: Path, llama: tf.PreTrainedModel, tokenizer: tf.PreTrainedTokenizerFast
) -> None:
    loaded = policies.load(f"llm:{folder}", device="cpu", temperature=2.0)
    original = LLMAgent(llama, tokenizer)
    original.set_decision(temperature=2.0)
    answers = []
    for agent in (loaded, original):
        agent.reset([0, 1], [INFO, INFO])
        answers.append(agent.act({"prompt": ("Round 1: pressed", "Round 12: pressed")}).measures)
    for name in answers[0]:
        np.testing.assert_allclose(answers[0][name], answers[1][name], atol=1e-5)
    assert loaded.name == f"llm:{folder}"


def test_weights_are_float32_on_the_cpu_frozen_and_in_eval_mode(folder: Path) -> None:
    agent = policies.load(f"llm:{folder}", device="cpu")
    assert agent.module is not None
    assert agent.describe()["dtype"] == "float32"
    assert not agent.module.training
    assert not any(parameter.requires_grad for parameter in agent.module.parameters())


def test_a_dtype_may_be_asked_for(folder: Path) -> None:
    agent = policies.load(f"llm:{folder}", device="cpu", dtype="bfloat16")
    assert agent.describe()["dtype"] == "bfloat16"
    agent.reset([0], [INFO])
    assert np.isfinite(agent.act({"prompt": ("Round 1: pressed",)}).measures["entropy_bits"]).all()


def test_the_tokenizer_survives_saving(folder: Path, tokenizer: tf.PreTrainedTokenizerFast) -> None:
    agent = policies.load(f"llm:{folder}", device="cpu")
    assert isinstance(agent, LLMAgent)
    text = "Round 47: pressed blue, got 51 points\n"
    assert agent.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert agent.tokenizer.chat_template == tokenizer.chat_template


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="there is no folder"):
        policies.load(f"llm:{tmp_path / 'missing'}")
    with pytest.raises(UnknownName, match=r"there is no folder '\./missing'"):
        policies.load("llm:./missing")


def test_pickled_weights_are_refused(folder: Path, llama: tf.PreTrainedModel) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(llama.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UnknownName, match=r"weights in other formats are not read\. It holds: .*pytorch_model\.bin"):
        policies.load(f"llm:{folder}")


def test_a_model_that_the_hub_does_not_give_is_answered_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> Any:
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr(tf.AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(UnknownName) as caught:
        policies.load("llm:smollm-135m")
    message = str(caught.value)
    assert "did you mean 'smollm2-135m'?" in message
    assert "hf download smollm-135m --local-dir FOLDER" in message
    assert "couldn't connect" in message


def test_remote_code_is_off_unless_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def refuse(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["trust_remote_code"])
        raise ValueError("requires you to execute code; set the option `trust_remote_code=True`")

    monkeypatch.setattr(tf.AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(UnknownName, match=r"It brings its own code\. Read that code"):
        policies.load("llm:some/model")
    with pytest.raises(UnknownName):
        policies.load("llm:some/model", trust_remote_code=True)
    assert seen == [False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"readout": "sample"}, "did you mean 'sampled'"),
        ({"temprature": 1.0}, r"option 'temprature' is unknown; did you mean 'temperature'\?"),
        ({"dtype": "fp32"}, "dtype 'fp32' is unknown"),
        ({"device": "gpu"}, "device 'gpu' is unknown to torch"),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        policies.load("llm:not/there", **options)


def test_a_missing_cuda_device_is_not_swapped_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match="torch sees no CUDA device"):
        policies.load("llm:not/there", device="cuda")


def test_a_name_without_a_model_is_refused() -> None:
    with pytest.raises(BadInput, match="needs a model behind the colon"):
        policies.load("llm:")
