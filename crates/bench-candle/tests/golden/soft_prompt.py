"""Golden values of prompt tuning, KTO and reward models, on the model that `make.py` wrote.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2
    python soft_prompt.py            # writes `llama/{soft_prompt,reward}/` and `soft_prompt.json`

The soft prompt is PEFT's own. What it predicts, the losses of eight steps and the tokens that it
writes greedily are PEFT's. KTO is written out from its paper in the form that TRL 0.2x computes it
(`KTOTrainer.kto_loss`), the reference being the same model with its adapter switched off. The reward
model is transformers' classifier with one label under PEFT's adapter, its loss that of TRL's
`RewardTrainer`.
"""

import json

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from variants import HERE, MODULES, base, ids_of, log_probability, steps

TOKENS = 5
WRITTEN = 12


def behind(model, ids):
    """The losses of a row behind a soft prompt: PEFT puts virtual tokens before the logits."""
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, -ids.shape[1]:][:-1].double()
    return F.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()


def learns(ids):
    def objective(model):
        logits = model(input_ids=ids).logits[0, -ids.shape[1]:][:-1]
        return F.cross_entropy(logits, ids[0, 1:])
    return objective


def writes(model, prompt):
    """Greedy tokens, each from a pass over all before it."""
    ids = prompt.clone()
    with torch.no_grad():
        for _ in range(WRITTEN):
            token = model(input_ids=ids).logits[0, -1].argmax()
            ids = torch.cat([ids, token.reshape(1, 1)], 1)
    return ids[0, prompt.shape[1]:].tolist()


def kto(rows, prompt, labels, beta, weights):
    """`rows` are completions behind their prompts, and mismatched ones in turn."""
    own, other = rows[::2], rows[1::2]

    def ratios(model, rows):
        policy = torch.stack([log_probability(model, row, prompt).sum() for row in rows])
        with torch.no_grad(), model.disable_adapter():
            reference = torch.stack([log_probability(model, row, prompt).sum() for row in rows])
        return policy - reference

    def objective(model):
        with torch.no_grad():
            point = ratios(model, other).mean().clamp(min=0)
        signs = torch.tensor([1.0 if good else -1.0 for good in labels])
        scale = torch.tensor([weights[0] if good else weights[1] for good in labels])
        return (scale * (1 - torch.sigmoid(beta * signs * (ratios(model, own) - point)))).mean()

    return objective


def reward_model():
    torch.manual_seed(9)
    model = AutoModelForSequenceClassification.from_pretrained(
        HERE / "llama", dtype=torch.float32, num_labels=1)
    model.config.pad_token_id = 0
    config = LoraConfig(r=4, lora_alpha=8, target_modules=MODULES, task_type="SEQ_CLS",
                        base_model_name_or_path="llama")
    model = get_peft_model(model, config)
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = 0.1 * torch.randn_like(parameter)
    return model.eval()


def prefers(pairs):
    def objective(model):
        rewards = torch.stack([model(input_ids=row).logits[0, 0] for row in pairs])
        return -F.logsigmoid(rewards[::2] - rewards[1::2]).mean()
    return objective


def main():
    ids = ids_of("llama")
    torch.manual_seed(5)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS)
    model = get_peft_model(base("llama"), config)
    for parameter in model.prompt_encoder.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    model.eval()
    folder = HERE / "llama" / "soft_prompt"
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = "llama"
    path.write_text(json.dumps(config, indent=2) + "\n")
    golden = dict(adapted=behind(model, ids), written=writes(model, ids[:, :9]))
    golden.update(steps(model, learns(ids)))

    # Three completions of one length of prompt, each followed by one of another's.
    rows = [ids[:, :30], ids[:, :24], torch.cat([ids[:, :10], ids[:, 40:]], 1),
            torch.cat([ids[:, :10], ids[:, 33:45]], 1), torch.cat([ids[:, :10], ids[:, 20:37]], 1),
            torch.cat([ids[:, :10], ids[:, 12:30]], 1)]
    labels = [True, False, True]
    model = PeftModel.from_pretrained(base("llama"), HERE / "llama" / "adapter", is_trainable=True).eval()
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            parameter.data.zero_()
    kind = kto(rows, 10, labels, 0.3, (1.0, 1.3))
    golden["kto"] = dict(rows=[row[0].tolist() for row in rows], prompt=10, labels=labels,
                         **steps(model, kind))
    model = reward_model()
    folder = HERE / "llama" / "reward"
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = "llama"
    path.write_text(json.dumps(config, indent=2) + "\n")
    with torch.no_grad():
        rewards = [model(input_ids=row).logits[0, 0].item() for row in rows]
    golden["reward"] = dict(rewards=rewards, **steps(model, prefers(rows)))
    (HERE / "soft_prompt.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
