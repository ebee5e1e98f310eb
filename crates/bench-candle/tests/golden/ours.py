"""What PEFT makes of files that we write, on the model that `make.py` wrote.

    cargo test --release -p bench -p bench-candle --lib write_the_files_for_peft -- --ignored
    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2
    python ours.py

The first line writes `llama/ours/*`. This script loads each of them with PEFT, sees to it that PEFT
took every tensor and missed none, and writes `llama/ours/peft.json`: the losses of the golden row,
and what the reward model gives for six rows.
"""

import json
import warnings

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from soft_prompt import behind
from variants import HERE, base, ids_of, losses

OURS = HERE / "llama" / "ours"


def loaded(model, folder):
    """The model with the adapter, every tensor of the file in its place."""
    with warnings.catch_warnings():
        # PEFT warns of missing and of unknown keys.
        warnings.simplefilter("error", UserWarning)
        model = PeftModel.from_pretrained(model, folder).eval()
    file = load_file(folder / "adapter_model.safetensors")
    taken = get_peft_model_state_dict(model)
    assert sorted(file) == sorted(taken), sorted(set(file) ^ set(taken))
    for name, tensor in file.items():
        assert torch.equal(tensor, taken[name]), name
    return model


def main():
    ids = ids_of("llama")
    golden = {}
    for kind in ["lora", "rslora", "dora", "some_modules"]:
        golden[kind] = dict(losses=losses(loaded(base("llama"), OURS / kind), ids))
    golden["soft_prompt"] = dict(losses=behind(loaded(base("llama"), OURS / "soft_prompt"), ids))
    classifier = AutoModelForSequenceClassification.from_pretrained(
        HERE / "llama", dtype=torch.float32, num_labels=1)
    classifier.config.pad_token_id = 0
    model = loaded(classifier, OURS / "reward")
    rows = [ids[:, :length] for length in (12, 20, 30, 41, 50, 60)]
    with torch.no_grad():
        rewards = [model(input_ids=row).logits[0, 0].item() for row in rows]
    golden["reward"] = dict(rows=[row[0].tolist() for row in rows], rewards=rewards)
    (OURS / "peft.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
